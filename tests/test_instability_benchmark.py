"""The instability benchmark: its halves are apart, its runs can be made again, its rules do what their sources say."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "experiments/instability_benchmark"


@pytest.fixture(scope="module")
def parts() -> Any:
    """The modules of the experiment, which are scripts beside each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield lambda name: importlib.import_module(name)


def curve(parts: Any, loss: list[float], grad_norm: list[float] | None = None, **others: Any) -> Any:
    kept: dict[str, Any] = {"clipped": None, "skipped": None, "evals": [], "signals": {}, "prior": None, "lr": 0.1}
    norms = grad_norm if grad_norm is not None else [1.0] * len(loss)
    return parts("making").Curve(loss=loss, lrs=[0.1] * len(loss), grad_norm=norms, **{**kept, **others})


def test_no_seed_and_no_kept_back_optimizer_is_in_both_halves(parts: Any) -> None:
    dev, test = parts("cases").cases("dev"), parts("cases").cases("test")
    assert not {case.seed for case in dev} & {case.seed for case in test}
    pairs = {(case.task, case.optimizer) for case in test} - {(case.task, case.optimizer) for case in dev}
    assert {("cancer", "sgd"), ("digits_cnn", "adamw"), ("char_lm", "momentum")} <= pairs


def test_every_run_has_a_name_of_its_own(parts: Any) -> None:
    wanted = parts("cases").cases()
    assert len({case.name for case in wanted}) == len(wanted)


def test_run_is_made_again_number_for_number_and_survives_its_file(parts: Any, tmp_path: Path) -> None:
    making, rigged = parts("making"), parts("rigged")
    spoiled = rigged.Fault("inputs", (5,), 1000.0)
    case = making.Case("spoiled", "digits_mlp", "momentum", 3, steps=20, clip_norm=1.0, fault=spoiled)
    first = making.make(case, parts("cases").best_lrs())
    making.write(tmp_path / "curve.json.gz", first)
    again = making.make(case, parts("cases").best_lrs())
    assert making.read(tmp_path / "curve.json.gz").loss == first.loss == again.loss
    assert first.loss[5] > 3 * first.loss[4]


def test_run_whose_numbers_end_is_cut_after_some_steps(parts: Any) -> None:
    making, rigged = parts("making"), parts("rigged")
    case = making.Case("numeric", "cancer", "sgd", 0, steps=120, fault=rigged.Fault("nan", (10,)))
    made = making.make(case, {"cancer": {"sgd": 0.1}})
    assert made.first_non_finite == 10
    assert len(made.loss) == 10 + making.DEAD_STEPS


@pytest.mark.parametrize(
    ("rule", "loss", "step"),
    [
        ("nan_check", [1.0, 2.0, math.nan], 2),
        ("four_times_best", [1.0] * 10 + [50.0] * 20, 10),
        ("four_times_best", [1.0] * 10 + [3.0] * 20, None),
        ("skip_step", [1.0, 1.1] * 40 + [2.0], 80),
        ("skip_step", [1.0, 1.1] * 30 + [2.0], None),  # 64 values have to be there
        ("olmo_2_spike", [1.0, 1.1] * 60 + [0.5], 120),  # to both sides
        ("skip_step", [1.0, 1.1] * 60 + [0.5], None),
    ],
)
def test_rules_of_others_ring_where_their_sources_say(
    parts: Any, rule: str, loss: list[float], step: int | None
) -> None:
    assert getattr(parts("baselines"), rule)(curve(parts, loss)) == step


def test_zclip_learns_from_what_it_does_not_clip(parts: Any) -> None:
    norms = [1.0, 1.2] * 20 + [9.0]
    assert parts("baselines").zclip(curve(parts, [1.0] * 41, norms)) == 40


def test_interval_of_no_false_alarm_in_300_runs_reaches_one_in_a_hundred(parts: Any) -> None:
    low, high = parts("tables").interval(0, 300)
    assert (low, round(high, 4)) == (0.0, 0.0122)


@pytest.mark.parametrize(
    ("multiple", "val", "cause"),
    [(1.0, 0.093, "healthy"), (10.0, 0.093, "healthy"), (10.0, 1.5, "lr_too_high"), (0.01, 1.5, "lr_too_low"),
     (1.0, 1.5, "dropped"), (10.0, 0.11, "dropped")],
)  # fmt: skip
def test_label_follows_construction_and_outcome(parts: Any, multiple: float, val: float, cause: str) -> None:
    case = parts("making").Case("lr", "digits_mlp", "adamw", 0, multiple)  # tuned loss 0.092, sd 0.007
    losses = [2.3 - 0.02 * step for step in range(100)]
    assert parts("labels").label(case, curve(parts, losses, evals=[(100, val)], prior=2.3), None).cause == cause


def test_sample_has_a_run_of_every_label_and_can_be_read(parts: Any) -> None:
    labels = json.loads((FOLDER / "sample/labels.json").read_text())
    assert {"healthy", "lr_too_high", "lr_too_low", "batch_spike"} <= {given["cause"] for given in labels.values()}
    for name in labels:
        assert len(parts("making").read(FOLDER / f"sample/{name}.json.gz").records()) > 30


@pytest.mark.parametrize(
    ("loss", "gradual"),
    [
        ([1.0] * 20 + [1.2**n for n in range(20)] + [math.nan], True),
        ([1.0] * 20 + [1e5, 1e20] + [math.nan], False),
        ([1.0] * 20 + [1.2**n for n in range(20)] + [1.0] * 9 + [math.nan], False),  # it had come back
        ([1.2**n for n in range(40)], False),
    ],
)
def test_gradual_is_what_left_for_good_ten_steps_before_its_end(
    parts: Any, loss: list[float], *, gradual: bool
) -> None:
    assert parts("labels").is_gradual(curve(parts, loss)) is gradual


PROBED = {"cause": "lr_too_low", "silent": True}


@pytest.fixture(scope="module")
def probed(parts: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Rows of a rate that is too low, asked at the start and later, and of one that is right."""
    making, root = parts("making"), tmp_path_factory.mktemp("probed")
    low = making.Case("lr", "cancer", "sgd", 0, multiple=0.1, steps=120)
    right = making.Case("lr", "cancer", "sgd", 0, steps=120)
    for case in (low, right):
        making.write(parts("generate").path_of(case, root), making.make(case, parts("cases").best_lrs()))
    healthy = {"cause": "healthy", "silent": False}
    row_of = parts("probe").row_of
    return [
        row_of(low, "start", PROBED, root),
        row_of(low, "quarter", PROBED, root),
        row_of(right, "start", healthy, root),
    ]


def test_probe_row_says_what_the_loop_decided_and_why(parts: Any, probed: Any) -> None:
    for row in probed:
        assert row.same
        assert {len(found) for found in row.losses.values()} == {round(row.compute / 0.5)}  # repeats of five branches
        assert (row.factor != 1.0) == (row.gain > 2.0 * row.sd)
        assert row.lower == 1.0
        assert (row.after == row.before) == (row.factor == 1.0)
    low, later, _ = probed
    assert (low.factor, later.factor) == (10.0, 10.0)
    assert max(low.after, later.after) < 0.5 * low.before


def test_tables_of_probes_count_what_was_found_and_what_was_moved(parts: Any, probed: Any) -> None:
    moved = "100.0% (1 of 1)" if probed[2].factor != 1.0 else "0.0% (0 of 1)"
    found = parts("probe_tables").tables(probed)
    assert "| lr_too_low | the start | 1 | 100.0% (1 of 1) |" in found
    assert f"| lower and higher | the start | 1 | {moved} |" in found
    assert "0 of them on a run that began otherwise" in found


def test_probe_draws_as_many_healthy_runs_as_silent_ones(parts: Any) -> None:
    there = [parts("making").Case("lr", "cancer", "adamw", seed) for seed in range(30)]
    labels = {c.name: PROBED if c.seed < 10 else {"cause": "healthy", "silent": False} for c in there}
    drawn = parts("probe").draw(there, labels, limit=4)
    assert drawn == parts("probe").draw(there[::-1], labels, limit=4)
    assert [labels[case.name]["silent"] for case in drawn].count(True) == 4 == len(drawn) / 2
