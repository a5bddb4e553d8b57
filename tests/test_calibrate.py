"""mode=calibrate: the shortest warmup that is safe, and a threshold for clipping."""

import json
import random
import shlex
from collections.abc import Callable, Sequence

import pytest
import yaml

from runner.calibration import (
    Calibration,
    Trial,
    clip_threshold,
    is_safe,
    norms_after_warmup,
    shortest_safe,
    trial_steps,
    warmups_to_try,
)
from tests.conftest import Program, Refusal


def trial(warmup_steps: int, end: float, *, seed: int = 0, noise: float = 0.01, stopped: bool = False) -> Trial:
    generator = random.Random(f"{warmup_steps}{seed}")
    losses = [2.3, *(end + generator.gauss(0, noise) for _ in range(99))]
    return Trial(warmup_steps, seed, losses, [1.0] * 100, stopped=stopped)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(100, [0, 10]), (440, [0, 4, 44]), (10_000, [0, 10, 100, 1000]), (300, [0, 3, 30])],
)
def test_warmups_are_orders_of_magnitude_up_to_a_tenth_of_the_run(steps: int, expected: list[int]) -> None:
    assert warmups_to_try(steps) == expected
    assert trial_steps(expected) == 3 * max(expected)


@pytest.mark.parametrize(
    ("trials", "shortest"),
    [
        ([trial(0, 1.0), trial(10, 1.0), trial(100, 1.1)], 0),
        ([trial(0, 1.5), trial(10, 1.0), trial(100, 1.0)], 10),
        ([trial(0, 1.0, stopped=True), trial(10, 1.5), trial(100, 1.0)], 100),
        ([trial(0, 1.0, stopped=True), trial(10, 3.0)], None),
        ([trial(0, 1.0), trial(10, 1.0), trial(0, 2.0, seed=1), trial(10, 1.0, seed=1)], 10),
        ([trial(0, 1.0), trial(10, 0.99, noise=0.1)], 0),
    ],
    ids=["all alike", "without is worse", "only the longest", "none has learned", "one seed objects", "within noise"],
)
def test_shortest_safe_warmup(trials: Sequence[Trial], shortest: int | None) -> None:
    assert shortest_safe(trials) == shortest


def test_a_trial_that_ends_where_it_began_is_not_safe() -> None:
    assert not is_safe(trial(0, 2.35), [trial(0, 2.35)])


def test_threshold_is_the_90th_percentile_of_the_norms_after_the_warmup() -> None:
    norms = [*(1000.0 for _ in range(10)), *map(float, range(101))]
    one = Trial(10, 0, [1.0] * len(norms), norms)
    assert clip_threshold(norms_after_warmup([one, trial(0, 1.0)], 10)) == 90.0


@pytest.mark.parametrize(
    ("found", "overrides"),
    [
        (Calibration(0, 1.5, 0.12, 0.1, 100), ["warmup=none", "train.clip_norm=1.5", "alarm=0.36"]),
        (Calibration(0, 1.5, 0.01, 0.1, 100), ["warmup=none", "train.clip_norm=1.5", "alarm=0.3"]),
        (
            Calibration(30, 1.5, 0.3, 0.1, 100),
            ["warmup=linear", "warmup.duration=30", "train.clip_norm=1.5", "alarm=0.5"],
        ),
        (Calibration(30, 1.5, 0.6, 0.1, 100), ["warmup=linear", "warmup.duration=30", "optimizer.lr=0.1"]),
        (Calibration(None, None, None, None, 100), ["optimizer.lr=0.03"]),
    ],
    ids=["no warmup", "clips rarely", "a warmup", "clips too often", "nothing safe"],
)
def test_what_was_found_is_written_as_overrides(found: Calibration, overrides: list[str]) -> None:
    assert found.overrides(lr=0.3, lr_key="optimizer.lr", alarm_key="alarm") == overrides
    assert all(sentence for sentence in found.in_words())


SMALL = ["mode=calibrate", "task.hidden=[8]", "train.duration=100"]


@pytest.mark.usefixtures("pictures")
def test_calibration_is_printed_as_overrides_that_the_program_takes(program: Program) -> None:
    done = program(*SMALL, "optimizer.lr=0.1")
    assert done.code == 0, done.err
    overrides = next(line for line in done.out.splitlines() if line.startswith("warmup=")).split()
    report = json.loads((done.run / "calibration.json").read_text())
    assert report["overrides"] == overrides
    assert [t["warmup_steps"] for t in report["trials"]["warmup"]] == [0, 10]
    assert report["steps"] == 3 * 30
    assert f"cost: {report['steps']} steps, 0.9 times the run" in done.out
    assert (done.run / "calibration.png").stat().st_size > 10_000
    again = program("task.hidden=[8]", "train.duration=100", *overrides)
    assert again.code == 0, again.err
    page = yaml.safe_load((again.run / "config.yaml").read_text())
    assert page["detectors"]["clip_saturation"]["fraction"] == report["clip_alarm"] == 0.3
    assert page["train"]["clip_norm"] == report["clip_norm"]


@pytest.mark.parametrize(
    ("watched", "listed"),
    [
        (["detector=[non_finite]"], "[non_finite,clip_saturation]"),
        (["detector=[]", "remedy=[]"], "[clip_saturation]"),
        (["~detectors.clip_saturation", "remedy=[heal]"], None),
    ],
)
def test_the_alarm_of_clipping_comes_with_its_detector(
    program: Program, watched: list[str], listed: str | None
) -> None:
    declared = ["task.hidden=[8]", "train.duration=100", *watched]
    done = program("mode=calibrate", "quiet=true", *declared)
    overrides = shlex.split(done.out.splitlines()[0])
    assert overrides[-1] == "detectors.clip_saturation.fraction=0.3", done.out
    assert listed is None or overrides[-2] == f"detector={listed}"
    words = [word for word in declared if not word.startswith(("detector=", "~"))]
    again = program("mode=check", *words, *overrides)
    assert again.code == 0, again.err


def test_learning_rate_that_no_warmup_saves_is_to_be_lowered(program: Program) -> None:
    done = program(*SMALL, "optimizer.lr=30", "quiet=true")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "optimizer.lr=3"
    assert len(done.out.splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.duration=99", "train.duration: must be at least 100 optimizer steps to calibrate, got 99."),
        (
            "mode.warmups=[0,40]",
            "mode.warmups: must have a longest warmup of 1 to 33 steps, a third of the run, got 40.",
        ),
        ("mode.warmups=[5]", "mode.warmups: must be null or a list of at least 2, each item an integer >= 0, got [5]."),
        ("mode.seeds=0", "mode.seeds: must be an integer >= 1 and <= 100, got 0."),
    ],
)
def test_mistakes_are_refused(refuse: Callable[..., Refusal], override: str, message: str) -> None:
    refusal = refuse(*SMALL, override)
    assert refusal.code == 2
    assert message in refusal.err
    assert refusal.left_behind == []


def test_trials_clip_as_the_run_does(program: Program) -> None:
    """With a clip that finds its own norm no norm is tried: the program would refuse it."""
    declared = [*SMALL, "optimizer=sgd", "optimizer.lr=10", "quiet=true"]
    assert program(*declared).out.splitlines()[0] == "optimizer.lr=1"
    assert program(*declared, "clip=agc").out.splitlines()[0] == "warmup=none"
