"""Rules of the range test: published procedures on a curve without randomness, and what our own reading withstands."""

import math
import random
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.curves import ema
from runner.finding.ramp import Brake, Ramp, fewest_steps, half_width, ramp_lrs, smooth
from runner.finding.range_curve import find_bracket, read_ramp, smith_range
from runner.finding.range_rules import RULES, as_fastai, as_lightning, gradient

CUT = slice(10, -5)  # of 100 points, as fastai cuts
LRS = [1e-7 * 1e8 ** (i / 100) for i in range(100)]


def golden(lr: float) -> float:
    x = math.log10(lr)
    return 2.3 - 1.5 / (1 + math.exp(-3 * (x + 3))) + math.exp(min(4 * (x + 0.5), 3))


RAW = [golden(lr) for lr in LRS]
SMOOTHED = ema(RAW, decay=0.98)


def ramp(loss: Callable[[float], float], *, noise: float = 0.0, seed: int = 0, lrs: Sequence[float] = ()) -> Ramp:
    """What the engine would record of a loss that is a function of log10 lr."""
    rates = lrs or ramp_lrs(1e-6, 10, steps=141)
    generator, brake, losses, why = random.Random(seed), Brake(half_width(rates)), list[float](), ""
    for lr in rates:
        losses.append(loss(math.log10(lr)) + generator.gauss(0, noise))
        if why := brake.why(losses[-1]):
            break
    return Ramp(tuple(rates[: len(losses)]), tuple(losses), len(rates), why)


def healthy(x: float) -> float:
    return golden(10**x)


def test_the_golden_curve_is_the_published_one() -> None:
    places = [0, 25, 50, 60, 65, 70, 75, 80, 90, 99]
    assert [round(RAW[i], 6) for i in places] == [
        2.299991, 2.296291, 1.550045, 0.925873, 0.845412, 0.839568, 0.939044, 1.471439, 17.244748, 20.885549,
    ]  # fmt: skip
    assert [round(SMOOTHED[i], 6) for i in places] == [
        2.299991, 2.299208, 2.165662, 1.900477, 1.765943, 1.648739, 1.555357, 1.512658, 2.668781, 6.160423,
    ]  # fmt: skip
    assert [i for i in range(100) if SMOOTHED[i] > 4 * min(SMOOTHED[: i + 1])][:1] == [99]


@pytest.mark.parametrize(
    ("losses", "rule", "suggested"),
    [
        (RAW, "valley", 9.12011e-05),
        (RAW, "slide", 2.75423e-06),
        (RAW, "minimum/10", 2.75423e-03),
        (RAW, "steep", 8.31764e-04),
        (SMOOTHED, "valley", 2.75423e-04),
        (SMOOTHED, "slide", 2.51189e-03),
        (SMOOTHED, "minimum/10", 2.51189e-02),
        (SMOOTHED, "steep", 3.63078e-03),
    ],
)
def test_rules_suggest_what_fastai_does(losses: list[float], rule: str, suggested: float) -> None:
    assert RULES[rule](LRS[CUT], losses[CUT]) == pytest.approx(suggested, rel=1e-5)


def test_fastai_is_followed_from_recorded_losses_on() -> None:
    expected = {name: RULES[name](LRS[CUT], SMOOTHED[CUT]) for name in ("valley", "minimum/10", "steep", "slide")}
    assert as_fastai(LRS, RAW, planned_steps=100) == expected
    lost = [*RAW[:80], *(math.nan for _ in range(20))]
    assert as_fastai(LRS, lost, planned_steps=100)["minimum/10"] == pytest.approx(LRS[79] / 10)
    assert as_fastai(LRS[:12], RAW[:12], planned_steps=100) == {}


@pytest.mark.parametrize("places", [list(range(85)), LRS[CUT]], ids=["even", "equal ratios"])
def test_gradient_is_that_of_numpy(places: list[float]) -> None:
    np.testing.assert_allclose(gradient(RAW[CUT], places), np.gradient(RAW[CUT], places), rtol=1e-9)


def test_lightnings_rule_ends_a_decade_below_the_steepest_descent_of_a_noisy_curve() -> None:
    picks, ours = [], []
    for seed in range(40):
        generator = random.Random(seed)
        noisy = [loss + generator.gauss(0, 0.05) for loss in RAW]
        pick = as_lightning(LRS, noisy)
        assert pick is not None
        picks.append(pick)
        ours.append(find_bracket([Ramp(tuple(LRS), tuple(noisy), 100, "")]).low)
    assert median(picks) < RULES["steep"](LRS[CUT], SMOOTHED[CUT]) / 10
    assert min(ours) > 1e-5
    assert max(ours) < 1e-3
    assert as_lightning(LRS[:12], RAW[:12]) is None


def test_smoothing_has_no_lag_and_bends_no_end() -> None:
    line = [float(i) for i in range(40)]
    assert smooth(line, 5) == pytest.approx(line)
    bowl = [(i - 20.0) ** 2 for i in range(41)]
    smoothed = smooth(bowl, 5)
    assert smoothed.index(min(smoothed)) == 20
    assert smooth([1.0] * 9 + [50.0] + [1.0] * 9, 3) == pytest.approx([1.0] * 19)


@pytest.mark.parametrize(("a_decade", "half"), [(8, 2), (20, 5), (40, 10), (2, 1)])
def test_smoothing_reaches_as_many_decades_at_any_resolution(a_decade: int, half: int) -> None:
    assert half_width(ramp_lrs(1e-6, 1, steps=6 * a_decade + 1)) == half


def test_the_lowest_point_stays_where_the_average_of_fastai_shifts_it_by_a_decade() -> None:
    lowest = LRS[RAW.index(min(RAW))]
    ours, theirs = smooth(RAW, half_width(LRS)), SMOOTHED
    assert LRS[ours.index(min(ours))] / lowest == pytest.approx(1, rel=0.25)
    assert LRS[theirs.index(min(theirs))] / lowest == pytest.approx(9.12, rel=0.01)


def test_ramps_of_equal_ratios_and_of_equal_differences() -> None:
    assert ramp_lrs(1e-3, 10, steps=5) == pytest.approx([1e-3, 1e-2, 0.1, 1, 10])
    assert ramp_lrs(1, 5, steps=5, shape="linear") == pytest.approx([1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([2.0, math.nan], "the loss or its gradient was no number"),
        ([2.0, -math.inf], "the loss or its gradient was no number"),
        ([2.0, 1.0, 1.1, 1.0, 100.0], "the loss was over 4 times its best"),
        ([2.3] * 10 + [1.5] * 20 + [2.6] * 40, "the loss had lost all that it had gained"),
        ([-1.0] * 10 + [-9.0] * 20 + [3.0] * 40, "the loss had lost all that it had gained"),
        ([-1.0] * 10 + [-9.0] * 60, ""),
        ([2.3, 2.4] * 40, ""),
        ([2.3] * 10 + [1.5] * 30 + [2.2] * 40, ""),
    ],
    ids=["nan", "-inf", "explodes", "back to chance", "negative", "negative, falls", "noise", "not all is lost"],
)
def test_a_ramp_is_over(losses: list[float], why: str) -> None:
    brake = Brake(5)
    assert next((told for loss in losses if (told := brake.why(loss))), "") == why


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (ramp(lambda x: 2.3), "the curve is flat: the loss stays at 2.3 up to lr 10"),
        (ramp(lambda x: 2.3, noise=0.2), "it is noise: the loss scatters by 0.2"),
        (ramp(lambda x: 2.3 + math.exp(4 * x)), "the loss never descends: it begins at 2.3 and only rises"),
        (ramp(lambda x: 2.3 + math.exp(4 * x), noise=0.05), "the loss never descends: it begins at 2.2"),
        (ramp(lambda x: 2.3 + max(x, 0), noise=0.01), "the loss never descends: it begins at 2.29"),
        (ramp(healthy, lrs=LRS[:15]), "it is too short: 15 points, at least 20 tell something"),
        (ramp(healthy, lrs=ramp_lrs(1e-9, 1e3, steps=30)), "it is too short: "),
        (
            ramp(lambda x: 10 ** (x + 9)),
            "it diverges at once: at lr 6.3e-6, after 17 steps, the loss was over 4 times",
        ),
        (
            ramp(lambda x: math.inf),
            "the loss or its gradient was no number before any update, which no learning rate causes",
        ),
    ],
    ids=["flat", "noise", "rises", "rises in noise", "rises and goes on", "few points", "coarse", "at once", "lost"],
)
def test_no_suggestion_comes_with_its_reason(told: Ramp, reason: str) -> None:
    found = find_bracket([told])
    assert found.nothing is not None
    assert found.nothing.reason.startswith(reason)
    assert found.nothing.advice
    assert found.rules == {}
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_bracket_of_a_healthy_curve_holds_what_is_between_descent_and_end(noise: float) -> None:
    found = find_bracket([ramp(healthy, noise=noise, seed=seed) for seed in range(3)])
    assert found.nothing is None
    assert not found.is_open
    assert found.low < 1e-3
    assert 2.75e-2 < found.high < 1


def test_a_ramp_of_equal_differences_is_read_as_one_of_equal_ratios() -> None:
    dense = ramp_lrs(1e-5, 0.5, steps=5000, shape="linear")
    linear = find_bracket([ramp(healthy, lrs=dense)])
    exponential = find_bracket([ramp(healthy, lrs=ramp_lrs(1e-5, 0.5, steps=95))])
    for name, factor in {"minimum/10": 2, "smith low": 2, "stop": 2, "valley": 5}.items():
        assert 1 / factor < linear.rules[name].middle / exponential.rules[name].middle < factor, name


def test_bracket_is_the_widest_of_the_repeats() -> None:
    ramps = [ramp(lambda x, by=by: healthy(x + by)) for by in (0.0, 0.5, -0.5)]  # type: ignore[misc]
    each, found = [find_bracket([one]) for one in ramps], find_bracket(ramps)
    assert found.low == min(one.low for one in each)
    assert found.high == max(one.high for one in each)
    assert found.rules["valley"].low < found.rules["valley"].middle < found.rules["valley"].high
    assert found.middle == pytest.approx(math.sqrt(found.low * found.high))


def test_half_of_the_ramps_without_a_suggestion_are_too_many() -> None:
    good, flat = ramp(healthy), ramp(lambda x: 2.3)
    assert find_bracket([good, good, flat]).nothing is None
    assert find_bracket([good, flat]).nothing == find_bracket([flat]).nothing


def test_bracket_is_open_where_nothing_blew_up() -> None:
    found = find_bracket([ramp(lambda x: 2.3 - 1.5 / (1 + math.exp(-3 * (x + 3))))])
    assert found.is_open
    assert found.high == pytest.approx(10 / 3)


def test_smiths_range_is_from_where_the_loss_falls_to_where_it_rises_or_is_ragged() -> None:
    low, high = smith_range(LRS, RAW, smooth(RAW, half_width(LRS)))
    assert 1e-4 < low < 3e-4  # a tenth of 1.5 is gained at 1.85e-4
    assert 3e-2 < high < 0.13
    ragged = [
        loss + (0.5 if lr > 1e-2 and i % 4 < 2 else 0.0) for i, (lr, loss) in enumerate(zip(LRS, RAW, strict=True))
    ]
    assert smith_range(LRS, ragged, smooth(ragged, half_width(LRS)))[1] < high


def test_noise_of_healthy_curves_ends_none_of_them_at_once() -> None:
    read = [read_ramp(ramp(healthy, noise=noise, seed=seed)) for noise in (0.02, 0.1) for seed in range(200, 260)]
    assert not any(curve.nothing for curve in read)


def test_heavy_tails_of_a_small_loss_are_no_explosion() -> None:
    ended = 0
    for seed in range(100):
        generator, brake = random.Random(seed), Brake(5)
        ended += any(brake.why(0.05 * math.exp(generator.gauss(0, 1))) for _ in range(100))
    assert ended <= 12  # without a distance in scatters, 64


def test_a_ramp_of_the_fewest_steps_that_are_allowed_is_long_enough() -> None:
    for low, high in ((1e-6, 10), (1e-5, 1), (3e-6, 2)):
        rates = ramp_lrs(low, high, steps=fewest_steps(low, high, "exponential"))
        assert read_ramp(ramp(healthy, lrs=rates)).nothing is None, (low, high)


curves = st.builds(
    lambda seed, noise, at: ramp(lambda x: healthy(x + at), noise=noise, seed=seed),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.02, 0.1]),
    st.floats(-1, 1),
)


@settings(max_examples=30, deadline=None)
@given(curves, st.integers(-6, 6), st.floats(-100, 100))
def test_unit_and_zero_of_the_loss_do_not_matter(told: Ramp, power: int, shift: float) -> None:
    moved = told._replace(losses=tuple(2.0**power * loss + shift for loss in told.losses))
    before, after = read_ramp(told), read_ramp(moved)
    ours = before.rules.keys() - {"slide"}  # its threshold is in the unit of the loss
    assert (after.nothing is None) is (before.nothing is None)
    assert {name: after.rules[name] for name in ours} == {name: before.rules[name] for name in ours}


@settings(max_examples=30, deadline=None)
@given(curves, st.integers(-8, 8))
def test_unit_of_the_rate_moves_all_suggestions_along(told: Ramp, power: int) -> None:
    moved = told._replace(lrs=tuple(2.0**power * lr for lr in told.lrs))
    before, after = find_bracket([told]), find_bracket([moved])
    assert after.low == pytest.approx(2.0**power * before.low)
    assert after.high == pytest.approx(2.0**power * before.high)
    for name, value in before.rules.items():
        assert after.rules[name].middle == pytest.approx(2.0**power * value.middle)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=60))
def test_any_losses_are_read_without_an_error(losses: list[float]) -> None:
    rates = ramp_lrs(1e-5, 1, steps=60)[: len(losses)]
    found = find_bracket([Ramp(tuple(rates), tuple(losses), 60, "")])
    assert found.nothing is not None or found.low < found.high
