"""What schedules of other libraries do to people, and that ours do not: the wrong value stands beside ours."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from runner.durations import Clock
from runner.optim.apply import apply_schedules
from runner.records import Alarm
from runner.remedies.protocol import History
from runner.remedies.reduce_lr import ReduceLR
from runner.schedules import warmups
from runner.schedules.compat import transformers as of_transformers
from runner.schedules.cooldowns import wsd
from runner.schedules.cycles import cyclic, one_cycle
from runner.schedules.decays import cosine, exponential, linear, multistep, polynomial, rex
from runner.schedules.joins import sequential, times
from runner.schedules.powers import inverse_sqrt
from runner.schedules.shape import Schedule


def test_inverse_sqrt_reaches_the_rate_that_was_set() -> None:
    # ludwig multiplies by 1 / sqrt(max(t, W)): 1.6% of the rate at W = 4000
    ludwigs = 1 / 4000**0.5
    assert ludwigs == pytest.approx(0.0158, abs=1e-4)
    factor = times(warmups.linear(duration=4000).factor, inverse_sqrt(warmup_steps=4000))
    assert max(factor(t) for t in range(3990, 4010)) == factor(3999) == 1.0


def test_exponential_starts_at_the_rate_that_was_set() -> None:
    # ludwig's first factor is decay_rate, 0.96 by default
    assert exponential(every=100, gamma=0.96)(0) == 1.0
    assert exponential(every=100, gamma=0.96, warmup_steps=50)(49) == 1.0


def test_polynomial_after_a_warmup_never_exceeds_the_rate_that_was_set() -> None:
    # ludwig subtracts the warmup twice, so that progress is negative: (1 + 0.1)^2 = 1.21 at first
    ludwigs = (1 - (0 - 10) / 100) ** 2
    assert ludwigs == pytest.approx(1.21)
    body = polynomial(total_steps=110, warmup_steps=10, power=2)
    assert [body(t) for t in range(10)] == [1.0] * 10
    assert all(second <= first for first, second in pairwise(body(t) for t in range(120)))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_falls(power: float) -> None:
    # pytorch_optimizer's PolyScheduler grows with the step and exceeds max_lr
    values = [polynomial(total_steps=100, power=power)(t) for t in range(101)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[100]) == (1.0, 0.0)


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "square", "sqrt", "lowering_square", "mirror_cosine", "cosine"])
def test_cooldown_never_goes_below_its_floor_and_up_again(shape: str) -> None:
    # pytorch_optimizer, 100 steps of cooldown to 0.1: 0.0101, 0.005, then up to 0.1
    factor = wsd(total_steps=1000, decay=100, shape=shape, floor=0.1)  # type: ignore[arg-type]
    values = [factor(t) for t in range(900, 1010)]
    assert min(values) == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_cooldown_of_ludwig_to_zero_has_a_floor_here() -> None:
    # ludwig's is a cosine to 0 whatever the floor
    assert wsd(total_steps=100, decay=10, shape="cosine", floor=0.2)(100) == pytest.approx(0.2)


@pytest.mark.parametrize("body", [cosine, linear, rex, polynomial])
def test_first_update_learns(body: Callable[..., Schedule]) -> None:
    # transformers, timm, optax and OLMo make update 0 at rate 0; pytorch_optimizer's classes at min_lr
    factor = times(warmups.linear(duration=10).factor, body(total_steps=100, warmup_steps=10))
    assert factor(0) == 0.1


def test_cosine_holds_its_end_value() -> None:
    # torch's CosineAnnealingLR climbs back to the top over the next T_max steps
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(20):
        optimizer.step()
        theirs.step()
    assert theirs.get_last_lr() == pytest.approx([1.0])
    assert cosine(total_steps=10)(20) == 0.0


def test_one_cycle_ends_low() -> None:
    # torch's OneCycleLR of 10 steps: 4e-6 at its last step, 0.0495 at the next, 12,000 times as much
    ours = one_cycle(total_steps=10)
    assert [ours(t) for t in (10, 11, 1000)] == pytest.approx([4e-6] * 3)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_of_a_few_steps_begins_at_its_peak(total: int) -> None:
    # torch begins at 0.99 and 0.81 of the peak for T = 2 and 3, and trains at 4e-6 of it for T = 1
    values = [one_cycle(total_steps=total)(t) for t in range(total)]
    assert values[0] == 1.0
    assert all(value > 0 for value in values)


def test_warmup_before_one_cycle_is_not_scaled_by_its_start() -> None:
    # torch's SequentialLR + OneCycleLR warms up from 0.004 to 0.04 and then jumps to 0.98
    stages = {
        "warmup": lambda clock: warmups.linear(duration=clock.total_steps or 1).factor,
        "cycle": lambda clock: one_cycle(total_steps=clock.total_steps or 1),
    }
    factor = sequential(clock=Clock(1, None, 110), stages=stages, boundaries=[10])
    assert [factor(t) for t in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 0.04])


def test_ratio_between_groups_survives() -> None:
    # torch's OneCycleLR and CyclicLR with one max_lr, and pytorch_optimizer's classes, give all groups one rate
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rates = zip(parameters, "ab", (0.1, 0.01), strict=True)
    groups = [{"params": [parameter], "name": name, "initial_lr": lr} for parameter, name, lr in rates]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for body in (one_cycle(total_steps=50), cyclic(up=10), cosine(total_steps=50, floor=0.5)):
        for step in (0, 7, 14, 49, 50):
            apply_schedules(optimizer, {("a", "lr"): body, ("b", "lr"): body}, step)
            first, second = (group["lr"] for group in optimizer.param_groups)
            assert second == pytest.approx(0.1 * first, rel=1e-12)


def test_floor_never_raises_a_group() -> None:
    # torch's CosineAnnealingLR(eta_min=0.1) raises a group of rate 0.01 to 0.1; ours is a share of each group's rate
    assert 0.01 * cosine(total_steps=10, floor=0.1)(10) == pytest.approx(0.001)


def test_decay_begins_where_the_warmup_ends() -> None:
    # timm's default goes from 0.9 to 0.976 at the end of a warmup of 10: its decay has run on below
    factor = times(warmups.linear(duration=10).factor, cosine(total_steps=100, warmup_steps=10))
    assert [factor(t) for t in (8, 9)] == pytest.approx([0.9, 1.0])
    assert factor(10) > 0.999


def test_milestone_acts_at_its_own_step() -> None:
    # timm counts t + 1 and drops one epoch before
    factor = multistep(total_steps=100, milestones=[30])
    assert [factor(29), factor(30)] == pytest.approx([1.0, 0.1])


def test_schedule_is_a_function_of_the_step() -> None:
    # mmengine and torch compute the next value from the current one, so that whatever changes it once lasts for ever
    body = cosine(total_steps=100)
    assert [body(t) for t in (90, 10, 90)] == [body(90), body(10), body(90)]


def test_floor_of_a_preset_is_a_share_of_each_groups_rate() -> None:
    # transformers divides lr_end by optimizer.defaults["lr"]: a group of rate 0.01 ends at 0.0001, not at lr_end=0.001
    transformers = pytest.importorskip("transformers")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    theirs = transformers.get_polynomial_decay_schedule_with_warmup(optimizer, 0, 10, lr_end=0.001)
    for _ in range(10):
        optimizer.step()
        theirs.step()
    assert theirs.get_last_lr() == pytest.approx([0.001, 0.0001])
    ours = of_transformers.schedule(total_steps=10, base_lr=0.1, name="polynomial", lr_end=0.001)
    assert [0.1 * ours(10), 0.01 * ours(10)] == pytest.approx([0.001, 0.0001])


def test_arguments_are_never_dropped() -> None:
    # transformers' get_scheduler forgets those of constant_with_warmup without a word
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimization.get_scheduler("constant_with_warmup", optimizer, 5, 10, {"no_such_argument": 1})
    with pytest.raises(ValueError, match="num_cycles: must be null with name=constant_with_warmup"):
        of_transformers.schedule(total_steps=10, base_lr=1.0, name="constant_with_warmup", warmup=5, num_cycles=2)


def test_plateau_follows_a_warmup() -> None:
    # torch's SequentialLR refuses ReduceLROnPlateau
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
        torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, plateau], milestones=[5])
    cut = ReduceLR().propose(Alarm(20, "plateau", "warn", {}, "m"), History())
    assert cut is not None
    factor = times(warmups.linear(duration=10).factor, cosine(total_steps=100, warmup_steps=10))
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "a", "initial_lr": 1.0}], lr=1.0
    )
    for step in (4, 9, 50):
        apply_schedules(optimizer, {("a", "lr"): factor}, step, lr_scale=cut.arguments["lr_scale"])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * factor(step))


def test_a_step_is_an_update_whatever_the_number_of_processes() -> None:
    # accelerate steps a prepared scheduler once a process: with 4 a cosine of 100 updates has reached 0 after 25
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for _ in range(25):
        optimizer.step()
        for _process in range(4):
            theirs.step()
    assert theirs.get_last_lr() == pytest.approx([0.0], abs=1e-12)
    assert cosine(total_steps=100)(25) == pytest.approx(0.8536, abs=1e-4)  # test_hardware_invariance has real ranks
