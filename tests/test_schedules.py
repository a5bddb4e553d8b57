"""Published values of schedules and warmups, what holds for all of them, and the convention that joins them."""

import json
import math
import random
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.durations import Clock
from runner.schedules import warmups
from runner.schedules.cooldowns import cosine_then_linear, wsd, wsd_s
from runner.schedules.cycles import cosine_restarts, cyclic, inverse_one_cycle, one_cycle
from runner.schedules.decays import (
    constant,
    cosine,
    exponential,
    half_cosine,
    linear,
    multistep,
    polynomial,
    rex,
    step,
    tanh,
)
from runner.schedules.joins import product, sequential, times
from runner.schedules.overlays import cooldown, noise
from runner.schedules.powers import inverse_sqrt, power
from runner.schedules.refined import refined, running_median, smoothed
from runner.schedules.shape import Schedule, Shape, curve
from runner.schedules.tables import chebyshev, piecewise_constant, piecewise_linear

# computed with the libraries named, N = 100 steps, a warmup of W = 10
GOLDEN = json.loads((Path(__file__).parent / "golden_schedules.json").read_text())
STEPS: list[int] = GOLDEN["steps"]
ROWS: dict[str, list[float]] = {
    # the momentum of a row follows it
    (f"{GOLDEN['rows'][i - 1][0]} momentum" if name.strip() == "momentum" else name): values
    for i, (name, values) in enumerate(GOLDEN["rows"])
}
T, W = 100, 10
RISE = warmups.linear(duration=W).factor


def points(row: str, *, since: int = 0, before: int = T + 1) -> list[tuple[int, float]]:
    return [(t, v) for t, v in zip(STEPS, ROWS[row], strict=True) if since <= t < before and not math.isnan(v)]


def agree(schedule: Schedule, expected: Sequence[tuple[int, float]], *, ahead: int = 0) -> None:
    assert len(expected) >= 5
    assert [schedule(t - ahead) for t, _ in expected] == pytest.approx([v for _, v in expected], abs=1e-9)


@pytest.mark.parametrize(
    ("row", "schedule"),
    [
        ("torch.CosineAnnealingLR(T_max=100,eta_min=0)", cosine(total_steps=T)),
        ("torch.CosineAnnealingLR(T_max=100,eta_min=0.1)", cosine(total_steps=T, floor=0.1)),
        (
            "torch.CosineAnnealingWarmRestarts(T_0=25,T_mult=2,.1)",
            cosine_restarts(total_steps=T, first=25, length_multiplier=2, floor=0.1),
        ),
        ("torch.PolynomialLR(total=100,power=1)", linear(total_steps=T)),
        ("torch.PolynomialLR(total=100,power=2)", polynomial(total_steps=T, power=2)),
        ("torch.ExponentialLR(gamma=0.97)", exponential(every=1, gamma=0.97)),
        ("torch.StepLR(30,0.1)", step(every=30, gamma=0.1)),
        ("torch.MultiStepLR([50,75],0.1)", multistep(total_steps=T, milestones=[50, 75])),
        ("torch.CyclicLR(0.1,1.0,step_size_up=10,triangular2)", cyclic(up=10, low=0.1, mode="triangular2")),
        (
            "timm.Cosine(50,cycle_limit=2,decay=.5,lr_min=0)",
            cosine_restarts(total_steps=T, first=50, cycles=2, peak_multiplier=0.5),
        ),
        ("closed: Noam peak-normalised wu10", times(RISE, inverse_sqrt(warmup_steps=W))),
        (
            "closed: untuned linear min(1,(1-b2)/2*t), b2=.99, t=step+1",
            warmups.untuned(beta2=0.99, longest=1000).factor,
        ),
        # torch's end value belongs to step T - 1, ours to step T: the same curve with one step less
        ("torch.OneCycleLR(1.0,total_steps=100) defaults lr", one_cycle(total_steps=T - 1)),
        ("torch.OneCycleLR(1.0,100,pct=.1,linear)", one_cycle(total_steps=T - 1, rise=0.1, shape="linear")),
        ("torch.OneCycleLR(1.0,100,pct=.3,three_phase)", one_cycle(total_steps=T - 1, three_phase=True)),
    ],
)
def test_schedule_equals_the_published_values(row: str, schedule: Schedule) -> None:
    agree(schedule, points(row))


def after_warmup(body: Schedule) -> Schedule:
    return times(RISE, body)


SHIFTED: list[tuple[str, Schedule]] = [
    (
        "torch.SequentialLR(LinearLR(0.1,10),Cosine(90),[10])",
        times(warmups.linear(duration=W, start=0.1).factor, cosine(total_steps=T - 1, warmup_steps=W)),
    ),
    ("hf.constant_with_warmup(10)", after_warmup(constant())),
    ("hf.linear_with_warmup(10,100)", after_warmup(linear(total_steps=T - 1, warmup_steps=W))),
    ("hf.cosine_with_warmup(10,100)", after_warmup(cosine(total_steps=T - 1, warmup_steps=W))),
    (
        "hf.cosine_with_hard_restarts(10,100,cycles=2)",
        after_warmup(cosine_restarts(total_steps=T - 1, warmup_steps=W, cycles=2)),
    ),
    (
        "hf.cosine_with_min_lr(10,100,min_lr_rate=.1)",
        after_warmup(cosine(total_steps=T - 1, warmup_steps=W, floor=0.1)),
    ),
    (
        "hf.polynomial(10,100,lr_end=0.01,power=1)",
        after_warmup(polynomial(total_steps=T - 1, warmup_steps=W, floor=0.01)),
    ),
    (
        "hf.polynomial(10,100,lr_end=0.01,power=2)",
        after_warmup(polynomial(total_steps=T - 1, warmup_steps=W, floor=0.01, power=2)),
    ),
    ("hf.inverse_sqrt(10)", after_warmup(inverse_sqrt(warmup_steps=W))),
    (
        "timm.Cosine(90,lr_min=.01,wt=10,wl=0,prefix=True)",
        after_warmup(cosine(total_steps=T - 1, warmup_steps=W, floor=0.01)),
    ),
    (
        "optax.warmup_exponential_decay(0,1,10,ts=30,rate=.5)",
        after_warmup(exponential(warmup_steps=W, every=30, gamma=0.5)),
    ),
    ("optax.polynomial(1,0,power=2,steps=90,begin=10)", polynomial(total_steps=T - 1, warmup_steps=W, power=2)),
    ("closed: REX beta=.5 alpha=.5, wu10", after_warmup(rex(total_steps=T - 1, warmup_steps=W))),
    ("closed: linear-to-zero (D2Z) wu10", after_warmup(linear(total_steps=T - 1, warmup_steps=W))),
    ("closed: linear 10x decay wu10", after_warmup(linear(total_steps=T - 1, warmup_steps=W, floor=0.1))),
    ("closed: inv-sqrt sqrt(wu/max(t,wu)) w/ linear warmup", after_warmup(inverse_sqrt(warmup_steps=W))),
    (
        "closed: OLMo PowerLR b=-.51 wu10 decay10",
        after_warmup(power(total_steps=T - 1, warmup_steps=W, exponent=-0.51, decay=10)),
    ),
    ("closed: exp warmup 1-exp(-(1-b2)t) b2=.9", warmups.untuned_exponential(beta2=0.9).factor),
    *(
        (
            f"{begin}{shape}{end}",
            after_warmup(wsd(total_steps=T - 1, warmup_steps=W, decay=20, shape=cast(Shape, shape))),
        )
        for begin, end, shapes in (
            ("hf.wsd(10,decay=20,stable=70,decay_type=", ")", ("linear", "cosine", "1-sqrt")),
            (
                "closed: WSD wu10 decay20 ",
                "",
                ("linear", "1-sqrt", "cosine", "mirror_cosine", "square", "sqrt", "lowering_square"),
            ),
        )
        for shape in shapes
    ),
    (
        "closed: WSD wu10 decay20 exp(floor 0.01)",
        after_warmup(wsd(total_steps=T - 1, warmup_steps=W, decay=20, shape="exponential", floor=0.01)),
    ),
]


@pytest.mark.parametrize(("row", "schedule"), SHIFTED, ids=[row for row, _ in SHIFTED])
def test_schedule_equals_the_published_values_one_step_ahead(row: str, schedule: Schedule) -> None:
    # their update 0 has rate 0 and their peak is at step W; ours leaves the idle update out and is a step ahead
    agree(schedule, points(row, since=1), ahead=1)


@pytest.mark.parametrize(
    ("row", "schedule", "since", "before"),
    [
        # timm's warmup runs over the decay; ours begins the decay after it, so only its own values count
        ("timm.Cosine(100,lr_min=.01,wt=10,wl=0,prefix=False)", cosine(total_steps=T, floor=0.01), W, T + 1),
        ("timm.Poly(100,power=.5,lr_min=0,wt=10)", polynomial(total_steps=T, power=0.5), W, T + 1),
        ("timm.Tanh(100,lb=-7,ub=3,wt=10)", tanh(total_steps=T), W, T + 1),
        # torch begins a cycle at the step where the run is over; ours ends at the floor
        ("torch.CosineAnnealingWarmRestarts(T_0=25,T_mult=1)", cosine_restarts(total_steps=T, first=25), 0, T),
    ],
)
def test_schedule_equals_the_part_of_the_published_values_that_is_its_own(
    row: str, schedule: Schedule, since: int, before: int
) -> None:
    agree(schedule, points(row, since=since, before=before))


def test_momentum_cycles_inversely_as_in_torch() -> None:
    momentum = inverse_one_cycle(total_steps=T - 1)
    row = "torch.OneCycleLR(1.0,total_steps=100) defaults lr momentum"
    agree(lambda t: 0.95 * momentum(t), points(row))


COOLDOWNS = {  # at 80, 82, 85, 90, 95, 99, 100 of 100 steps
    "linear": [1, 0.9, 0.75, 0.5, 0.25, 0.05, 0],
    "cosine": [1, 0.975528, 0.853553, 0.5, 0.146447, 0.006156, 0],
    "1-sqrt": [1, 0.683772, 0.5, 0.292893, 0.133975, 0.025321, 0],
    "square": [1, 0.99, 0.9375, 0.75, 0.4375, 0.0975, 0],
    "mirror_cosine": [1, 0.824472, 0.646447, 0.5, 0.353553, 0.093844, 0],
    "exponential 0.01": [1, 0.630957, 0.316228, 0.1, 0.031623, 0.012589, 0.01],
    "exponential 0.0625": [1, 0.757858, 0.5, 0.25, 0.125, 0.071794, 0.0625],  # halved every 5 steps
}


@pytest.mark.parametrize("name", COOLDOWNS)
def test_cooldown_follows_its_published_curve(name: str) -> None:
    shape, _, floor = name.partition(" ")
    factor = wsd(total_steps=T, decay=20, shape=cast(Shape, shape), floor=float(floor or 0))
    assert [factor(t) for t in (80, 82, 85, 90, 95, 99, 100)] == pytest.approx(COOLDOWNS[name], abs=1e-6)


def test_noam_of_the_first_transformer_is_inverse_sqrt_with_its_peak_rate() -> None:
    d, warmup = 512, 4000
    lr = (d * warmup) ** -0.5
    factor = times(warmups.linear(duration=warmup).factor, inverse_sqrt(warmup_steps=warmup))
    published = {1: 1.746928e-07, 100: 1.746928e-05, 4000: 6.987712e-04, 10000: 4.419417e-04, 100000: 1.397542e-04}
    assert [lr * factor(s - 1) for s in published] == pytest.approx(list(published.values()), rel=1e-6)


@pytest.mark.parametrize(("beta2", "steps"), [(0.999, 2000), (0.99, 200), (0.98, 100), (0.95, 40)])
def test_untuned_warmup_takes_two_over_one_minus_beta2_steps(beta2: float, steps: int) -> None:
    assert warmups.untuned(beta2=beta2, longest=10_000).steps == steps
    assert warmups.untuned(beta2=beta2, longest=30).steps == 30


def test_half_cosine_starts_at_half_and_falls_as_the_cosine_does_later() -> None:
    ours, whole = half_cosine(total_steps=50), cosine(total_steps=100)
    assert [ours(t) for t in range(51)] == pytest.approx([whole(50 + t) for t in range(51)])


def test_cosine_then_linear_leaves_the_cosine_for_a_line_to_its_end() -> None:
    factor, whole = cosine_then_linear(total_steps=T, decay=20, floor=0.1), cosine(total_steps=T, floor=0.1)
    assert [factor(t) for t in range(81)] == [whole(t) for t in range(81)]
    assert [factor(t) for t in (85, 90, 100, 200)] == pytest.approx([whole(80) * share for share in (0.75, 0.5, 0, 0)])


def test_periods_of_wsd_s_each_hold_cool_down_and_begin_at_their_peak() -> None:
    factor = wsd_s(total_steps=T, periods=[40, 60], decay=10, floor=0.1, peaks=[1.0, 0.5])
    assert [factor(t) for t in (0, 30, 35, 40, 89, 95, 100, 300)] == pytest.approx(
        [1, 1, 0.55, 0.5, 0.5, 0.275, 0.05, 0.05]
    )


def test_cycles_warm_up_again_where_that_is_asked() -> None:
    factor = cosine_restarts(total_steps=T, cycles=2, cycle_warmup=5)
    assert [factor(t) for t in range(50, 55)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(100) == 0


def test_chebyshev_takes_every_node_once() -> None:
    nodes = sorted(1 / chebyshev(total_steps=8, low=0.1)(t) for t in range(8))
    assert nodes == pytest.approx(sorted(0.55 - 0.45 * math.cos((i + 0.5) * math.pi / 8) for i in range(8)))


# what holds for all

FALLING = {
    "linear": lambda t, w, r: linear(total_steps=t, warmup_steps=w, floor=r),
    "polynomial": lambda t, w, r: polynomial(total_steps=t, warmup_steps=w, floor=r, power=0.5, k=2),
    "cosine": lambda t, w, r: cosine(total_steps=t, warmup_steps=w, floor=r, exponent=2, k=1.5),
    "half_cosine": lambda t, w, r: half_cosine(total_steps=t, warmup_steps=w, floor=r),
    "rex": lambda t, w, r: rex(total_steps=t, warmup_steps=w, floor=r),
    "tanh": lambda t, w, r: tanh(total_steps=t, warmup_steps=w, floor=r),
    "wsd": lambda t, w, r: wsd(total_steps=t, warmup_steps=w, floor=r, decay=(t - max(w - 1, 0)) // 2),
}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FALLING)),
    total=st.integers(1, 300),
    share=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_decays_fall_from_the_peak_to_the_floor_and_hold_it(name: str, total: int, share: float, floor: float) -> None:
    warmup = round(share * total)
    body = FALLING[name](total, warmup, floor)
    values = [body(t) for t in range(2 * total + 2)]
    start = max(warmup - 1, 0)
    assert values[: start + 1] == [values[0]] * (start + 1)
    assert all(second <= first + 1e-12 for first, second in pairwise(values))
    assert all(floor - 1e-12 <= value <= 1 + 1e-12 for value in values)
    assert values[total:] == pytest.approx([floor] * (total + 2))
    assert floor == 0 or values[total - 1] > 0


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from(get_args(Shape)), floor=st.floats(0.001, 1))
def test_every_curve_falls_from_1_to_its_floor(shape: Shape, floor: float) -> None:
    values = [curve(shape, floor=floor)(q / 50) for q in range(51)]
    assert (values[0], values[-1]) == pytest.approx((1.0, floor))
    assert all(second <= first + 1e-12 for first, second in pairwise(values))


RISING = [
    lambda n: warmups.linear(duration=n, start=0.2),
    lambda n: warmups.constant(duration=n),
    lambda n: warmups.cosine(duration=n),
    lambda n: warmups.one_minus_sqrt(duration=n),
    lambda n: warmups.exponential(duration=n),
    lambda n: warmups.untuned(beta2=0.9, longest=n),
]


@settings(max_examples=40, deadline=None)
@given(make=st.sampled_from(RISING), length=st.integers(1, 200))
def test_warmups_learn_at_update_0_rise_and_stay_at_1(make: object, length: int) -> None:
    warmup = make(length)  # type: ignore[operator]
    values = [warmup.factor(t) for t in range(length + 5)]
    assert values[0] > 0
    assert values == sorted(values)
    assert values[warmup.steps - 1 :] == [1.0] * (length + 6 - warmup.steps)
    assert warmup.steps < 2 or values[warmup.steps - 2] < 1


@settings(max_examples=40, deadline=None)
@given(total=st.integers(1, 200), rise=st.floats(0, 1))
def test_one_cycle_peaks_once_and_never_rises_after_its_end(total: int, rise: float) -> None:
    # torch's OneCycleLR multiplies the learning rate by 12,000 one step past its end
    values = [one_cycle(total_steps=total, rise=rise)(t) for t in range(total + 20)]
    assert max(values) == 1.0
    peak = values.index(1.0)
    assert values[:peak] == sorted(values[:peak])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values[total:] == [pytest.approx(1 / 25e4)] * 20


# joins and overlays


def test_linear_warmup_learns_at_update_0_and_peaks_at_the_last_of_its_steps() -> None:
    assert [RISE(t) for t in range(12)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1])
    assert [warmups.linear(duration=0).factor(0), warmups.none().factor(0)] == [1.0, 1.0]


def test_warmup_and_cosine_join_at_one_peak_and_end_at_the_floor() -> None:
    factor = times(RISE, cosine(total_steps=T, warmup_steps=W, floor=0.1))
    values = [factor(t) for t in range(T + 1)]
    assert values[W - 1] == 1.0
    assert values.count(1.0) == 1
    half = (W - 1 + T) / 2
    assert factor(math.floor(half)) > 0.55 > factor(math.ceil(half))
    assert [values[T], factor(10 * T)] == pytest.approx([0.1, 0.1])


@settings(max_examples=30, deadline=None)
@given(boundary=st.integers(1, 60), floor=st.floats(0.05, 0.9))
def test_continuous_stages_begin_where_the_one_before_has_ended(boundary: int, floor: float) -> None:
    factor = sequential(
        clock=Clock(1, None, 60),
        stages={
            "first": lambda clock: linear(total_steps=clock.total_steps or 1, floor=floor),
            "second": lambda clock: cosine(total_steps=clock.total_steps or 1),
        },
        boundaries=[boundary],
        continuous=True,
    )
    if boundary < 60:
        assert factor(boundary) == pytest.approx(floor)
        assert factor(boundary - 1) == pytest.approx(floor + (1 - floor) / boundary)
    assert factor(60) == pytest.approx(0 if boundary < 60 else floor, abs=1e-12)


def test_stages_are_made_for_their_own_length_and_the_first_follows_the_warmup() -> None:
    clocks: list[Clock] = []

    def stage(clock: Clock) -> Schedule:
        clocks.append(clock)
        return constant()

    stages = {"a": stage, "b": stage, "c": stage}
    sequential(clock=Clock(1, None, 100, 10), stages=stages, boundaries=[30, 90])
    assert [(clock.total_steps, clock.warmup_steps) for clock in clocks] == [(30, 10), (60, 0), (10, 0)]


def test_product_multiplies_its_members() -> None:
    first, second = cosine(total_steps=50), step(every=10, gamma=0.5)
    factor = product(schedules={"first": first, "second": second})
    assert [factor(t) for t in range(60)] == pytest.approx([first(t) * second(t) for t in range(60)])


def test_noise_is_a_function_of_seed_and_step_and_keeps_its_limit() -> None:
    overlaid = {seed: noise(seed=seed, total_steps=400, sd=0.2, limit=0.25, begin=10)(constant()) for seed in (0, 1)}
    again = noise(seed=0, total_steps=400, sd=0.2, limit=0.25, begin=10)(constant())
    values = [overlaid[0](t) for t in range(410)]
    assert [again(t) for t in reversed(range(410))] == values[::-1]
    assert [overlaid[1](t) for t in range(10, 400)] != values[10:400]
    assert values[:10] == [1.0] * 10
    assert values[400:] == [1.0] * 10
    assert all(0.75 <= value <= 1.25 for value in values)
    assert len(set(values[10:400])) == 390


@pytest.mark.parametrize(("sd", "limit"), [(0.1, 0.3), (1.0, 0.5), (0.0001, 0.9)])
def test_noise_has_the_distribution_of_a_normal_cut_off_at_the_limit(sd: float, limit: float) -> None:
    factor = noise(seed=7, total_steps=20_000, sd=sd, limit=limit)(constant())
    deviations = [factor(t) - 1.0 for t in range(20_000)]
    cut_off = stats.truncnorm(-limit / sd, limit / sd, scale=sd)
    assert stats.kstest(deviations, cut_off.cdf).pvalue > 0.01
    assert abs(stats.pearsonr(deviations[1:], deviations[:-1]).statistic) < 0.03, "steps are independent"


def test_cooldown_leaves_any_schedule_at_its_value_there() -> None:
    body = inverse_sqrt(timescale=10)
    factor = cooldown(begin=50, duration=10, floor=0.1)(body)
    assert [factor(t) for t in range(51)] == [body(t) for t in range(51)]
    assert [factor(t) for t in (55, 60, 99)] == pytest.approx([0.55 * body(50), 0.1 * body(50), 0.1 * body(50)])


# refined


def test_constant_norms_refine_to_the_straight_line_that_is_best_in_the_worst_case() -> None:
    factor = refined(smoothed([3.0] * 17, smoothing=0.1), total_steps=100, warmup_steps=0, power=2)
    assert [factor(t) for t in range(101)] == pytest.approx([1 - t / 100 for t in range(101)])


def test_refined_is_the_published_closed_form_on_norms_of_the_same_length() -> None:
    norms = [4.0, 2.0, 1.0, 1.0, 2.0, 0.5]
    weights = [norm**-2 for norm in norms]
    published = [weights[t] * sum(weights[t + 1 :]) / sum(weights) for t in range(6)]
    factor = refined(smoothed(norms, smoothing=0), total_steps=5, warmup_steps=0, power=2)
    assert [factor(t) for t in range(6)] == pytest.approx([value / max(published) for value in published])


@pytest.mark.parametrize("width", [0, 1, 2, 7, 60, 61, 200])
def test_running_median_is_the_median_of_what_is_around(width: int) -> None:
    draw, half = random.Random(width), width // 2
    values = [float(draw.choice((draw.random(), draw.randint(0, 3)))) for _ in range(61)]
    assert running_median(values, width) == [
        statistics.median(values[max(0, index - half) : index + half + 1]) for index in range(61)
    ]


def test_refined_warms_up_where_norms_fall_and_leaves_out_what_is_no_norm() -> None:
    norms = [10.0, math.nan, 5.0, 2.0, math.inf, 1.0, 1.0, 0.0, 1.0]
    values = [refined(smoothed(norms, smoothing=0), total_steps=50, warmup_steps=0, power=1)(t) for t in range(51)]
    peak = values.index(1.0)
    assert peak > 10
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[50] == 0
    with pytest.raises(ValueError, match="source: must have recorded at least two finite gradient norms > 0, got 1"):
        smoothed([1.0, math.nan], smoothing=0)


# arguments that are refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine(total_steps=10, floor=1.5), "floor"),
        (lambda: linear(total_steps=10, floor=-0.1), "floor"),
        (lambda: cyclic(up=5, low=1.5), "low"),
        (lambda: cyclic(up=5, low=0.0), "low"),
        (lambda: multistep(total_steps=100, milestones=[60, 30]), "milestones: must be in order, got 60, 30 steps"),
        (
            lambda: multistep(total_steps=100, milestones=[60, 130]),
            "milestones: must lie inside the 100 steps that it is made for",
        ),
        (lambda: inverse_sqrt(warmup_steps=0), "timescale: must be given where there is no warmup"),
        (lambda: power(total_steps=9, warmup_steps=0, decay=1), "timescale: must be given where there is no warmup"),
        (lambda: wsd(total_steps=9, decay=10), "decay: must not be longer than the 9 steps"),
        (lambda: wsd(total_steps=9, decay=3, shape="exponential"), "floor: must be > 0 for an exponential shape"),
        (lambda: wsd_s(total_steps=9, periods=[5, 9], decay=3), "periods: must fit into the run of 9 steps, got 14"),
        (lambda: wsd_s(total_steps=9, periods=[9], decay=3, peaks=[1, 1]), "peaks: must be one for each of the 1"),
        (lambda: piecewise_linear(total_steps=9, times=[0, 5], values=[1]), "values: must be one for each of the 2"),
        (lambda: piecewise_constant(total_steps=9, times=[0], values=[math.nan]), "values"),
        (lambda: piecewise_constant(total_steps=9, times=[5, 1], values=[1, 2]), "times: must be in order"),
        (lambda: cosine_restarts(total_steps=9, cycles=None), "first: must be given where cycles is not"),
        (
            lambda: cosine_restarts(total_steps=9, cycles=3, cycle_warmup=3),
            "cycle_warmup: must be shorter than a cycle",
        ),
        (lambda: one_cycle(total_steps=9, rise=0.6, three_phase=True), "rise: must be at most 0.5 in three phases"),
        (lambda: tanh(total_steps=9, lower=3, upper=3), "upper: must be greater than lower=3"),
        (lambda: chebyshev(total_steps=9, low=1, high=1), "low: must be less than high=1"),
    ],
)
def test_argument_out_of_its_range_is_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(("total", "periods"), [(1002, [126] * 8), (102, [26] * 4), (10, [3] * 4), (7, [3, 2, 3])])
def test_periods_that_were_rounded_up_end_with_the_run(total: int, periods: list[int]) -> None:
    factor = wsd_s(total_steps=total, periods=periods, decay=1)
    assert factor(total - 1) == 1.0
    assert factor(total) == 0.0


def test_chebyshev_takes_its_nodes_in_fractal_order_without_a_table() -> None:
    order = [0]
    while len(order) < 64:
        order = [index for place in order for index in (place, 2 * len(order) - 1 - place)]
    expected = [1 / (0.525 - 0.475 * math.cos((node + 0.5) * math.pi / 64)) for node in order]
    factor = chebyshev(total_steps=64)
    assert [factor(step) for step in range(64)] == pytest.approx(expected)
    assert 1.0 <= chebyshev(total_steps=10**9)(10**9 - 1) <= 20.0


def test_power_has_a_timescale_of_its_own_where_there_is_no_warmup() -> None:
    with_warmup, without = (power(total_steps=T, warmup_steps=w, timescale=50, decay=10) for w in (W, 0))
    assert with_warmup(W - 1 + 30) == without(30) == pytest.approx((80 / 50) ** -0.51)
