"""Between which learning rates a sweep or a search looks: given, typical, or bracketed by a range test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.build import find_facts
from runner.check import check
from runner.config_search import SearchSection
from runner.trials.bounds import Wanted
from tests.conftest import Done, Program, Refusal
from tests.pages import composed
from tests.sweeps import sweep_of

UNKNOWN = ("optimizer.typical=null", "task=quadratic", "train.duration=60", "sweep.backend=sequential")
STILL = "import torch\n\n\nclass Still(torch.optim.SGD):\n    def step(self, closure=None):\n        pass\n"


@pytest.fixture(scope="module")
def known() -> Wanted:
    config = check(composed("mode=search", "optimizer=sgd", "task=quadratic"), find_facts=find_facts)
    return Wanted(config.search, config.optimizer, config.task)


@pytest.mark.parametrize(
    ("low", "high", "ends", "middle"),
    [
        (None, None, (1e-3, 10.0), 0.0894),  # 0.01 to 0.8 is typical of SGD
        (1e-4, 1e-2, (1e-4, 1e-2), 1e-3),
        (0.1, None, (0.1, 10.0), 0.283),
        (None, 1e-9, (1e-10, 1e-9), 3.16e-10),
        (9.0, None, (9.0, 100.0), 30.0),
    ],
)
def test_ends_are_as_given_or_a_decade_beyond_what_is_typical(
    known: Wanted, low: float | None, high: float | None, ends: tuple[float, float], middle: float
) -> None:
    found = known._replace(section=SearchSection(low=low, high=high)).around(known.typical)
    assert (found.low, found.high) == pytest.approx(ends, rel=1e-3)
    assert found.middle == pytest.approx(middle, rel=1e-2)


def range_test_of(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.run / "range_test.json").read_text())
    return found


def test_search_of_an_unknown_optimizer_begins_with_a_range_test_once(program: Program) -> None:
    done = program("mode=search", *UNKNOWN, "search.verify=0")
    assert done.code == 0, done.err
    found, jobs = range_test_of(done), sweep_of(done)["jobs"]
    assert "range test: bracket of optimizer.lr: " in done.out
    assert found["low"] < jobs[0]["lr"] < jobs[1]["lr"] < found["high"]
    report = json.loads((done.run / "lr_report.json").read_text())
    assert report["cost"]["range_test"] == pytest.approx(found["steps"] / 60)
    own = sum(job["steps"] for job in jobs) / 60
    assert report["cost"]["full_runs"] == pytest.approx(own + found["steps"] / 60)
    assert report["cost"]["full_runs"] <= 6.05
    assert "A range test of" in report["notes"][0]
    before = (done.run / "range_test.json").stat().st_mtime_ns
    again = program(f"resume.sweep={done.run.relative_to(done.directory)}")
    assert again.code == 0, again.err
    assert "range test: " not in again.out
    assert (again.run / "range_test.json").stat().st_mtime_ns == before
    assert len(sweep_of(again)["jobs"]) == len(jobs)


@pytest.mark.parametrize(
    "words", [("mode=sweep", "sweep.points=2"), ("mode=search", "sampler=random", "search.n_trials=1")]
)
def test_grid_and_study_of_an_unknown_optimizer_lie_around_the_bracket(
    program: Program, words: tuple[str, ...]
) -> None:
    done = program(*UNKNOWN, *words)
    found = range_test_of(done)
    assert all(found["low"] / 20 < job["lr"] < found["high"] * 20 for job in sweep_of(done)["jobs"])


def test_given_bounds_take_no_range_test(program: Program) -> None:
    done = program("mode=sweep", *UNKNOWN, "sweep.low=0.01", "sweep.high=0.1", "sweep.points=2")
    assert [job["lr"] for job in sweep_of(done)["jobs"]] == [0.01, 0.1]
    assert not (done.run / "range_test.json").exists()


@pytest.mark.parametrize("words", [("search",), ("search", "sampler=tpe"), ("sweep",)])
def test_range_test_that_suggests_nothing_is_told_with_the_bounds_to_give(
    refuse: Callable[..., Refusal], tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "still.py").write_text(STILL)
    mode, *rest = words
    refusal = refuse(f"mode={mode}", *rest, *UNKNOWN, "optimizer._target_=still.Still", "tracking=off")
    assert refusal.code == 2
    assert f"{mode}.low: must be given where no learning rates in use are known for still.Still" in refusal.err
    assert "a range test suggests nothing (the curve is flat" in refusal.err
    assert f"Set {mode}.low=1e-5 {mode}.high=1" in refusal.err
    assert [path.name for path in refusal.left_behind if path.name not in ("still.py", "__pycache__")] == []


def test_mistakes_are_told_before_a_range_test(refuse: Callable[..., Refusal]) -> None:
    refusal = refuse("mode=search", "sampler=tpe", *UNKNOWN, "search.metric=f1", "tracking=off")
    assert refusal.code == 2
    assert "search.metric: must be a metric that the runs report, got f1. Set train/loss." in refusal.err


def test_optimizer_that_no_ramp_can_move_needs_bounds(refuse: Callable[..., Refusal]) -> None:
    refusal = refuse("mode=search", *UNKNOWN, "optimizer=rprop", "tracking=off")
    assert refusal.code == 2
    assert "search.low: must be given where no learning rates in use are known for torch.optim.Rprop" in refusal.err
    assert refusal.left_behind == []
