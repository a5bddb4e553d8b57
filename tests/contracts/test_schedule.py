"""Every schedule with every warmup is a finite, pure function of the step, and keeps the ratios between groups."""

import itertools
import math

import pytest

from runner.build_schedules import build_schedules
from runner.durations import Clock
from runner.optim.apply import apply_schedules
from tests.contracts.conftest import Declare, Make, options

PAIRS = list(itertools.product(options("schedule"), options("warmup")))
MOST_TELLING = {"linear", "none"}
MARKED = [
    pytest.param(*pair, marks=[] if pair[1] in MOST_TELLING or pair[0] in ("cosine", "wsd") else pytest.mark.slow)
    for pair in PAIRS
]
LENGTHS = [1, 2, 3, 10, 440]
PEAK_IS_NOT_1 = {"half_cosine", "chebyshev", "range_test"}
NEEDS_A_WARMUP = {"inverse_sqrt", "noam", "power"}
WITHOUT_LENGTH = {"none", "untuned_exponential"}
COUNTED_FROM_0 = {
    "piecewise_linear", "lambda", "one_cycle", "cyclic", "refined", "transformers", "timm", "optax", "torch",
}  # fmt: skip
RISES_AFTER_THE_END = {"cyclic"}


@pytest.mark.parametrize(("schedule", "warmup"), MARKED)
def test_factors_are_finite_positive_while_training_pure_and_reach_1(
    declare: Declare, schedule: str, warmup: str
) -> None:
    scale = ["++schedule.timescale=10%"] if schedule in ("inverse_sqrt", "noam") and warmup in WITHOUT_LENGTH else []
    if schedule == "power" and warmup in WITHOUT_LENGTH:
        pytest.skip("refused: its timescale is the length of the warmup")
    config = declare(f"schedule={schedule}", f"warmup={warmup}", *scale)
    for steps in LENGTHS:
        factor = build_schedules(config, Clock(64, 1400, steps)).lr()
        values = [factor(t) for t in range(steps)]
        assert all(math.isfinite(value) and value > 0 for value in values), "every update learns"
        if reaches_1(schedule, warmup, steps):
            assert max(values) == pytest.approx(1.0), "the base learning rate is reached"
        assert [factor(t) for t in reversed(range(steps))] == values[::-1], "no state"
        after = [factor(t) for t in range(steps, 3 * steps + 5)]
        assert all(math.isfinite(value) and value >= 0 for value in after)
        if schedule not in RISES_AFTER_THE_END and warmup != "untuned_exponential":
            assert after == sorted(after, reverse=True), "nothing rises after the end"


def reaches_1(schedule: str, warmup: str, steps: int) -> bool:
    """Whether the peak is 1: not where that is declared, nor where a warmup or the end of the run cuts it off."""
    if schedule in PEAK_IS_NOT_1 or warmup == "untuned_exponential":
        return False
    return not (schedule in COUNTED_FROM_0 and warmup != "none") and not (schedule == "cyclic" and steps < 10)


@pytest.mark.parametrize(("schedule", "warmup"), [pair for pair in PAIRS if pair[1] in MOST_TELLING])
def test_ratios_between_groups_survive(make: Make, schedule: str, warmup: str) -> None:
    if schedule in NEEDS_A_WARMUP and warmup == "none":
        pytest.skip("needs a warmup or a timescale")
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
