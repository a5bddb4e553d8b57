"""What is suggested about a curve, as a table; every override is one that our own check accepts."""

import math
import random
from dataclasses import replace

import pytest

from runner.diagnosis.curve import Curve, Family, Known
from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.features import read_features
from runner.diagnosis.lines import suggestion_lines
from runner.diagnosis.suggest import suggestions
from runner.diagnosis.verdict import CAUSES, Cause, Suggestion, first_overrides, to_json
from runner.job import checked
from runner.trends import is_still_falling
from tests.pages import composed
from tests.test_diagnosis import KINDS

COMMAND = "python -m runner optimizer.lr=0.1 train.duration=20ep seed=1"
OURS = Known(
    family="momentum", lr=0.1, warmup_steps=20, total_steps=400, clip_norm=math.inf, precision="fp32", batch_size=64,
    schedule="cosine", was_cut_short=False, duration="20ep", patience=0,
)  # fmt: skip
CUT = replace(OURS, was_cut_short=True, go_on=("resume.from=runs/a",))
LATE = replace(CUT, go_on=("resume.from=runs/a", "train.max_seconds=null"))
ESTIMATED = replace(OURS, lr=1.0, lr_key="optimizer.d_coef", family="adaptive")
NAN = math.nan
DECAYED = [0.1 + 2.0 * math.exp(-step / 40) for step in range(400)]
FALLING = [2.0 * (step + 1) ** -0.3 for step in range(400)]
RISING = [2.0, 1.8, 1.9, 2.5, 4.0, 9.0, 40.0]
AROUND = "try the learning rates around this one: python -m runner -m train.duration=20ep seed=1 "
LOWER = "try a learning rate ten times lower: python -m runner train.duration=20ep seed=1 "
TWICE = "the loss was still falling; try a run twice as long: python -m runner optimizer.lr=0.1 seed=1 "
GO_ON = "go on with: python -m runner resume.from=runs/a"
VALS = [(step, 1.0 - min(step, 100) / 200 + max(step - 100, 0) * 7e-5) for step in range(20, 401, 20)]
STOP = "held-out loss was best at step 100; stop when it no longer gains: python -m runner optimizer.lr=0.1 "
CASES: dict[str, tuple[Curve, str]] = {
    "flat at its end": (Curve.of_losses(DECAYED, OURS), AROUND + "optimizer.lr=0.033,0.1,0.3"),
    "falling": (Curve.of_losses(FALLING, OURS), TWICE + "train.duration=40ep"),
    "exploded": (Curve.of_losses([5.55, 6.0, 1e9, 1e59], OURS), LOWER + "optimizer.lr=0.01"),
    "ends in nan": (Curve.of_losses([*RISING, NAN], OURS), LOWER + "optimizer.lr=0.01"),
    "a little worse at its end": (
        replace(Curve.of_losses(DECAYED, OURS), evals=VALS),
        STOP + "train.duration=20ep seed=1 train.early_stop.patience=3",
    ),
    "patience set": (
        replace(Curve.of_losses(DECAYED, replace(OURS, patience=5)), evals=VALS),
        AROUND + "optimizer.lr=0.033,0.1,0.3",
    ),
    "interrupted": (Curve.of_losses(DECAYED, CUT), GO_ON),
    "out of time": (Curve.of_losses(DECAYED, LATE), GO_ON + " train.max_seconds=null"),
    "estimated": (
        Curve.of_losses(DECAYED, ESTIMATED),
        "try the factors on the estimated learning rate around this one: python -m runner -m optimizer.lr=0.1 "
        "train.duration=20ep seed=1 optimizer.d_coef=0.5,1,2",
    ),
    "estimated, exploded": (
        Curve.of_losses([*RISING, NAN], ESTIMATED),
        "try a factor on the estimated learning rate ten times lower: "
        "python -m runner optimizer.lr=0.1 train.duration=20ep seed=1 optimizer.d_coef=0.1",
    ),
    "goes on from another run": (Curve.of_losses(DECAYED, replace(OURS, resumed=True)), ""),
    "no number": (Curve.of_losses([], OURS), ""),
}


def lines(curve: Curve) -> list[str]:
    return suggestion_lines(to_json(diagnose(curve)), COMMAND)


@pytest.mark.parametrize(("curve", "expected"), CASES.values(), ids=CASES)
def test_first_suggestion_follows_from_the_curve(curve: Curve, expected: str) -> None:
    assert (lines(curve) or [""])[0] == expected


def test_a_spike_needs_no_comparison_of_rates_and_a_rate_that_is_too_high_does() -> None:
    def remedies(cause: Cause) -> list[Suggestion]:
        found = diagnose(KINDS[cause]()).suggestions
        return [suggestion for suggestion in found if suggestion.overrides and "remedy" in suggestion.overrides[0]]

    [spike], [high] = remedies("batch_spike"), remedies("lr_too_high")
    assert (spike.overrides, high.overrides) == (("remedy=[rollback_ladder]",), ("remedy=[heal]",))
    assert "compares lower rates" in high.why
    assert first_overrides({"suggestions": [{"overrides": list(high.overrides)}]}) == "'remedy=[heal]'"


@pytest.mark.parametrize(("duration", "twice"), [(500, "1000"), ("2.25ep", "4.5ep"), ("64000ex", "128000ex")])
def test_longer_run_doubles_a_duration_in_its_unit(duration: str | int, twice: str) -> None:
    [said] = lines(Curve.of_losses(FALLING, replace(OURS, duration=duration)))
    assert said.endswith(f" train.duration={twice}")


def test_a_sick_run_that_was_cut_short_is_not_told_first_to_go_on() -> None:
    assert lines(Curve.of_losses([*RISING, NAN], CUT))[-1] == GO_ON
    assert lines(Curve.of_losses([*RISING, NAN], CUT))[0].startswith(LOWER)


def test_unknown_learning_rate_is_left_to_the_reader() -> None:
    found = diagnose(Curve.of_losses([2.5, 2.4, 2.6, 3.1, 4.2, NAN])).suggestions
    assert found[0].why.startswith("LR / 10: try a learning rate ten times lower; add optimizer.lr=...")
    assert [suggestion.overrides for suggestion in found] == [
        (),
        ("warmup=linear", "warmup.duration=10%"),
        ("train.clip_norm=1",),
    ]


def test_clipping_is_not_suggested_where_it_changes_nothing() -> None:
    adaptive = diagnose(Curve.of_losses([*RISING, NAN], replace(OURS, family="adaptive"))).suggestions
    assert not [override for s in adaptive for override in s.overrides if "clip" in override]
    clipped = diagnose(Curve.of_losses([*RISING, NAN], replace(OURS, clip_norm=1.0))).suggestions
    assert not [override for s in clipped for override in s.overrides if "clip" in override]


def test_noise_and_a_crumb_are_no_fall() -> None:
    noisy = random.Random(0)
    assert sum(is_still_falling([noisy.gauss(1.0, 0.3) for _ in range(300)]) for _ in range(100)) <= 10
    assert not is_still_falling([math.exp(-step / 20) for step in range(1000)])
    assert is_still_falling([(step + 1) ** -0.2 + noisy.gauss(0, 0.01) for step in range(1000)])
    assert not is_still_falling([3.0, 2.0, 1.0])
    assert not is_still_falling([*FALLING, math.inf])


FAMILIES: tuple[Family | None, ...] = ("sgd", "momentum", "adaptive", None)


def test_every_override_is_accepted_by_check() -> None:
    """One of each key, for every cause and kind of run; `checked` raises on what it refuses."""
    found: dict[str, str] = {}
    for cause in CAUSES:
        curve = KINDS[cause]()
        for family in FAMILIES:
            for known in (OURS, Known(lr=0.02), Known(precision="fp16")):
                f = read_features(replace(curve, known=replace(known, family=family)))
                assert f is not None
                found |= {o.partition("=")[0]: o for s in suggestions(cause, f) for o in s.overrides}
    assert {"optimizer.lr", "warmup", "warmup.duration", "train.clip_norm", "remedy", "schedule"} <= found.keys()
    # of the values of a multirun the first
    numbers = [o if "[" in o else o.partition(",")[0] for o in found.values()]
    checked(composed("train.duration=400", *numbers))
