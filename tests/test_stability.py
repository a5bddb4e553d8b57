"""The bounds and growth factors of every optimizer, as formulas; `test_stability_limits` shows them in real runs."""

import math
import random
from collections.abc import Callable

import pytest

from runner.stability import (
    UPDATES,
    Update,
    bound_of,
    heavy_ball,
    moving_average,
    nadam,
    nadam_momentum,
    nesterov,
    steps_to_grow,
)

SHARPNESS, DECAY = 100.0, 5.0
L2 = {"decay": DECAY}
DECOUPLED = {"decay": DECAY, "decoupled": True}

# update, decay, bound for curvature 100, spectral radius at 0.99 and at 1.01 of it (A.2 for SGD)
SGD: list[tuple[Update, dict[str, float], float, float, float]] = [
    (heavy_ball(), {}, 0.02, 0.98, 1.02),
    (heavy_ball(0.5), {}, 0.03, 0.935562, 1.056933),
    (heavy_ball(0.9), {}, 0.038, 0.948683, 1.166385),
    (heavy_ball(0.95), {}, 0.039, 0.974679, 1.192061),
    (heavy_ball(0.99), {}, 0.0398, 0.994987, 1.214955),
    (nesterov(0.5), {}, 0.015, 0.975971, 1.023972),
    (nesterov(0.9), {}, 0.013571429, 0.971177, 1.028694),
    (nesterov(0.99), {}, 0.013355705, 0.970049, 1.029803),
    (heavy_ball(0.9, dampening=0.9), {}, 0.38, 0.948683, 1.166385),
    (heavy_ball(), L2, 0.019047619, 0.98, 1.02),
    (heavy_ball(0.9), L2, 0.036190476, 0.948683, 1.166385),
    (nesterov(0.9), L2, 0.01292517, 0.971177, 1.028694),
    (heavy_ball(0.9), DECOUPLED, 0.034703196, 0.863364, 1.113900),
]


@pytest.mark.parametrize(("update", "decay", "bound", "below", "above"), SGD)
def test_bound_and_growth_of_sgd_are_the_published_ones(
    update: Update, decay: dict[str, float], bound: float, below: float, above: float
) -> None:
    found = update.largest_lr(SHARPNESS, **decay)  # type: ignore[arg-type]
    assert found == pytest.approx(bound, rel=1e-7)
    assert update.growth(found, SHARPNESS, **decay) == pytest.approx(1.0)  # type: ignore[arg-type]
    # the slowest direction decides below the bound: that of curvature 100 in all of these but for some of momentum
    assert update.growth(0.99 * found, SHARPNESS, **decay) == pytest.approx(below, abs=1e-6)  # type: ignore[arg-type]
    assert update.growth(1.01 * found, SHARPNESS, **decay) == pytest.approx(above, abs=1e-6)  # type: ignore[arg-type]


# update, decay, bound, first step beyond 1e6 times the start at 1.01 and at 1.10 of the bound, in runs of torch 2.13
ADAPTIVE: list[tuple[str, Update, dict[str, float], float, int, int]] = [
    ("Adam b1=0", moving_average(0.0), {}, 0.02, 698, 76),
    ("Adam b1=.5", moving_average(0.5), {}, 0.06, 232, 36),
    ("Adam b1=.9", moving_average(0.9), {}, 0.38, 80, 23),
    ("Adam b1=.95", moving_average(0.95), {}, 0.78, 70, 22),
    ("Adam b1=.9 L2", moving_average(0.9), L2, 0.361904762, 79, 23),
    ("AdamW", moving_average(0.9), DECOUPLED, 0.194871795, 349, 44),
    ("NAdam", nadam(0.9, direct=0.55, through=0.45), {}, 0.0348623853, 669, 73),
    ("RMSprop", heavy_ball(), {}, 0.02, 698, 76),
    ("RMSprop mom=.9", heavy_ball(0.9), {}, 0.038, 80, 23),
]


@pytest.mark.parametrize(
    ("update", "decay", "bound", "first", "sooner"), [case[1:] for case in ADAPTIVE], ids=[case[0] for case in ADAPTIVE]
)
def test_bound_and_steps_to_blow_up_of_adaptive_optimizers_are_those_of_real_runs(
    update: Update, decay: dict[str, float], bound: float, first: int, sooner: int
) -> None:
    found = update.largest_lr(SHARPNESS, **decay)  # type: ignore[arg-type]
    assert found == pytest.approx(bound, rel=1e-7)
    for times, steps in ((1.01, first), (1.10, sooner)):
        growth = update.growth(times * found, SHARPNESS, **decay)  # type: ignore[arg-type]
        # a buffer that starts empty costs or saves some steps
        assert steps_to_grow(1e6, growth) == pytest.approx(steps, rel=0.08, abs=12)


@pytest.mark.parametrize(
    ("update", "steps"), [(heavy_ball(), 1263), (heavy_ball(0.9), 402), (heavy_ball(0.99), 372), (nesterov(0.9), 925)]
)
def test_run_at_1_10_of_the_bound_passes_1e100_when_the_growth_factor_says_so(update: Update, steps: int) -> None:
    growth = update.growth(1.1 * update.largest_lr(SHARPNESS), SHARPNESS)
    assert steps_to_grow(1e100, growth) == pytest.approx(steps, abs=2)


def test_what_does_not_grow_never_gets_there() -> None:
    assert steps_to_grow(10, 1.0) == steps_to_grow(10, 0.5) == math.inf


def test_bound_is_where_a_brute_force_search_over_the_growth_factor_finds_it() -> None:
    generator = random.Random(0)
    makers: list[Callable[[], Update]] = [
        lambda: heavy_ball(generator.random() * 0.99, dampening=generator.random() * 0.99),
        lambda: nesterov(generator.random() * 0.99),
        lambda: moving_average(generator.random() * 0.99),
        lambda: nadam(b := generator.random() * 0.99, direct=1 - b, through=b),
    ]
    for make in makers * 25:
        update, curvature = make(), 10 ** generator.uniform(-3, 3)
        decay = {"decay": generator.random() * curvature, "decoupled": generator.random() < 0.5}
        low, high = 0.0, 1000 / curvature
        for _ in range(60):
            middle = (low + high) / 2
            is_stable = update.growth(middle, curvature, **decay) < 1  # type: ignore[arg-type]
            low, high = (middle, high) if is_stable else (low, middle)
        assert low == pytest.approx(update.largest_lr(curvature, **decay), rel=1e-6)  # type: ignore[arg-type]


def test_momentum_of_nadam_grows_from_half_of_beta1_to_beta1() -> None:
    assert nadam_momentum(0.9, 0.0, 1e9) == pytest.approx(0.45)
    assert nadam_momentum(0.9, 4e-3, 1e9) == pytest.approx(0.9)
    group = {"betas": (0.9, 0.999), "momentum_decay": 4e-3}
    assert UPDATES["NAdam"](group).largest_lr(1.0) == pytest.approx(3.8 / (1.9 - 2 * 0.81))


def test_only_classes_of_torch_have_a_known_bound() -> None:
    assert bound_of("torch.optim.sgd.SGD") is UPDATES["SGD"]
    assert bound_of("schedulefree.SGD") is None
    assert bound_of("torch.optim._muon.Muon") is None
