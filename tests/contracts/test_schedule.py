"""Every schedule with every warmup is a finite, pure function of the step, and keeps the ratios between groups."""

import itertools
import math

import pytest

from runner.optim.apply import apply_schedules
from tests.contracts.conftest import Make, options

PAIRS = list(itertools.product(options("schedule"), options("warmup")))
LENGTHS = [1, 2, 3, 10, 440]


@pytest.mark.parametrize(("schedule", "warmup"), PAIRS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_factors_are_finite_positive_while_training_at_most_1_and_pure(
    make: Make, schedule: str, warmup: str, steps: int
) -> None:
    every = [f"schedule.every={max(1, steps // 2)}"] if schedule == "step" else []
    experiment = make(f"schedule={schedule}", f"warmup={warmup}", f"train.duration={steps}", *every)
    factor = experiment.schedules[("all", "lr")]
    values = [factor(t) for t in range(steps)]
    assert all(math.isfinite(value) and 0 < value <= 1 for value in values), "every update learns"
    assert max(values) == pytest.approx(1.0), "the base learning rate is reached"
    assert [factor(t) for t in reversed(range(steps))] == values[::-1], "no state"
    after = [factor(t) for t in range(steps, 3 * steps + 5)]
    assert all(math.isfinite(value) and value >= 0 for value in after)
    assert after == sorted(after, reverse=True), "nothing rises after the end"


@pytest.mark.parametrize(("schedule", "warmup"), PAIRS)
def test_ratios_between_groups_survive(make: Make, schedule: str, warmup: str) -> None:
    experiment = make(f"schedule={schedule}", f"warmup={warmup}", "param_groups=layerwise", "param_groups.rate=0.1")
    groups = experiment.optimizer.param_groups
    assert [group["initial_lr"] / groups[0]["initial_lr"] for group in groups] == pytest.approx([1.0, 0.1, 0.01])
    for step in (0, 1, 21, 22, 100, 439):
        apply_schedules(experiment.optimizer, experiment.schedules, step, lr_scale=0.5)
        factor = experiment.schedules[(groups[0]["name"], "lr")](step)
        for group in groups:
            assert group["lr"] == pytest.approx(group["initial_lr"] * factor * 0.5, rel=1e-12)


@pytest.mark.parametrize("warmup", options("warmup"))
def test_a_group_with_a_schedule_of_its_own_keeps_the_warmup_and_leaves_the_others_alone(
    make: Make, warmup: str
) -> None:
    own_schedule = "++param_groups.rules.vectors.schedule._target_=runner.schedules.decays.constant"
    usual = make(f"warmup={warmup}", "schedule=cosine").schedules[("all", "lr")]
    steady = make(f"warmup={warmup}", "schedule=constant").schedules[("all", "lr")]
    declared = [f"warmup={warmup}", "schedule=cosine", "param_groups=patterns", own_schedule]
    own = make(*declared).schedules
    for step in (0, 1, 21, 22, 100, 439):
        assert own[("vectors", "lr")](step) == steady(step)
        assert own[("rest", "lr")](step) == usual(step)
