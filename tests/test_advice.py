"""The next command worth trying, as a table, and when a loss is still falling."""

import math
import random
from dataclasses import replace

import pytest

from runner.advice import Declared, advise, is_still_falling
from runner.records import RunResult

DECLARED = Declared(lr=0.1, duration="20ep", metric="loss", patience=None)
RUN = RunResult(
    mode="train", status="finished", verdict="finished", title="t", experiment="e", seed=0, steps=400,
    planned_steps=400, command="python -m runner optimizer.lr=0.1 train.duration=20ep seed=1",
    best={"loss": 0.5, "step": 380}, final={"train/loss": 0.4, "val/loss": 0.5},
)  # fmt: skip
FLAT = [1.0] * 400
FALLING = [2.0 - step / 400 for step in range(400)]
AROUND = "python -m runner -m train.duration=20ep seed=1 optimizer.lr=0.033,0.1,0.3"
TWICE = "python -m runner optimizer.lr=0.1 seed=1 train.duration=40ep"
STOP = "python -m runner optimizer.lr=0.1 train.duration=20ep seed=1 train.early_stop.patience=3"
OVERFITTED = replace(RUN, best={"loss": 0.5, "step": 100}, final={"val/loss": 0.7})


LATE = replace(RUN, verdict="reached train.max_seconds at step 9")
COMPARE = f"try the learning rates around this one: {AROUND}"
STOP_EARLY = f"val/loss was best at step 100 of 400; stop when it no longer gains: {STOP}"
LOWER = "try a learning rate ten times lower: python -m runner train.duration=20ep seed=1 optimizer.lr=0.01"
ESTIMATED = DECLARED._replace(lr=1.0, lr_key="optimizer.d_coef")
FACTORS = "python -m runner -m optimizer.lr=0.1 train.duration=20ep seed=1 optimizer.d_coef=0.5,1,2"
LOWER_FACTOR = (
    "try a learning rate ten times lower: python -m runner optimizer.lr=0.1 train.duration=20ep seed=1 "
    "optimizer.d_coef=0.1"
)
GO_ON = "go on with: python -m runner resume.from=runs/a"
CASES: dict[str, tuple[RunResult, list[float], Declared, str]] = {
    "flat": (RUN, FLAT, DECLARED, COMPARE),
    "falling": (RUN, FALLING, DECLARED, f"the loss was still falling; try a run twice as long: {TWICE}"),
    "exploded": (RUN, [5.55, 6.0, 1e59], DECLARED, f"the loss rose from 5.55 to 1e59; {LOWER}"),
    "overfitted": (OVERFITTED, FALLING, DECLARED, STOP_EARLY),
    "patience set": (OVERFITTED, FLAT, DECLARED._replace(patience=5), COMPARE),
    "ends in nan": (replace(OVERFITTED, final={"val/loss": math.nan}), FLAT, DECLARED, STOP_EARLY),
    "best by a hair": (replace(OVERFITTED, final={"val/loss": 0.505}), FLAT, DECLARED, COMPARE),
    "diverged": (replace(RUN, status="diverged"), FLAT, DECLARED, LOWER),
    "interrupted": (replace(RUN, status="interrupted"), FLAT, DECLARED, GO_ON),
    "late": (LATE, FLAT, DECLARED, f"{GO_ON} train.max_seconds=null"),
    "estimated": (RUN, FLAT, ESTIMATED, f"try the factors on the estimated learning rate around this one: {FACTORS}"),
    "estimated, diverged": (replace(RUN, status="diverged"), FLAT, ESTIMATED, LOWER_FACTOR),
    "resumed": (replace(RUN, overrides=("resume.from=x",)), FLAT, DECLARED, ""),
    "failed": (replace(RUN, status="failed"), FALLING, DECLARED, ""),
    "no numbers": (replace(RUN, best={}, final={}), [], DECLARED, COMPARE),
}  # fmt: skip


@pytest.mark.parametrize(("result", "losses", "declared", "expected"), CASES.values(), ids=CASES)
def test_advice_follows_from_the_numbers(
    result: RunResult, losses: list[float], declared: Declared, expected: str
) -> None:
    assert advise(result, losses, declared=declared, directory="runs/a") == expected


@pytest.mark.parametrize(("duration", "twice"), [(500, "1000"), ("2.25ep", "4.5ep"), ("64000ex", "128000ex")])
def test_longer_run_doubles_a_duration_in_its_unit(duration: str | int, twice: str) -> None:
    said = advise(RUN, FALLING, declared=DECLARED._replace(duration=duration), directory="d")
    assert said.endswith(f" train.duration={twice}")


def test_noise_and_a_crumb_are_no_fall() -> None:
    noisy = random.Random(0)
    assert sum(is_still_falling([noisy.gauss(1.0, 0.3) for _ in range(300)]) for _ in range(100)) <= 10
    assert not is_still_falling([math.exp(-step / 20) for step in range(1000)])
    assert is_still_falling([(step + 1) ** -0.2 + noisy.gauss(0, 0.01) for step in range(1000)])
    assert not is_still_falling([3.0, 2.0, 1.0])
    assert not is_still_falling([*FALLING, math.inf])
