"""Statistics of curves."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.curves import (
    AxisRange,
    axis_range,
    downsample,
    ema,
    hugs_zero,
    labels,
    number,
    robust_limits,
    roughness,
    sparkline,
    spells,
    ticks,
)

NAN, INF = math.nan, math.inf
finite = st.floats(-1e6, 1e6)
anything = st.floats() | st.sampled_from([NAN, INF, -INF, 0.0])


@pytest.mark.parametrize(
    ("values", "decay", "expected"),
    [
        ([], 0.9, []),
        ([7.0], 0.9, [7.0]),
        ([1.0, 2.0, 3.0], 0.0, [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], 0.5, [1.0, 5 / 3, 17 / 7]),
        ([0.0, 1.0], 0.9, [0.0, 10 / 19]),
        ([1.0, NAN, 2.0, INF, 3.0], 0.5, [1.0, 1.0, 5 / 3, 5 / 3, 17 / 7]),
    ],
)
def test_ema_has_the_values_of_its_formula(values: list[float], decay: float, expected: list[float]) -> None:
    assert ema(values, decay=decay) == pytest.approx(expected)


@given(st.lists(finite, min_size=1, max_size=50), st.floats(0, 0.999))
def test_ema_is_the_bias_corrected_moment_of_adam(values: list[float], decay: float) -> None:
    moment, expected = 0.0, []
    for i, value in enumerate(values, start=1):
        moment = decay * moment + (1 - decay) * value
        expected.append(moment / (1 - decay**i))
    assert ema(values, decay=decay) == pytest.approx(expected, rel=1e-9, abs=1e-4)


@given(st.lists(finite, min_size=1), st.floats(0, 0.9999))
def test_ema_stays_between_smallest_and_largest_value(values: list[float], decay: float) -> None:
    for i, average in enumerate(ema(values, decay=decay)):
        assert min(values[: i + 1]) - 1e-6 <= average <= max(values[: i + 1]) + 1e-6


def test_ema_is_nan_until_the_first_finite_value() -> None:
    averages = ema([NAN, INF, 4.0, -INF], decay=0.9)
    assert [math.isnan(v) for v in averages] == [True, True, False, False]
    assert averages[2:] == [4.0, 4.0]


@given(st.lists(anything), st.floats(0, 0.999))
def test_ema_survives_every_float(values: list[float], decay: float) -> None:
    averages = ema(values, decay=decay)
    assert len(averages) == len(values)
    assert not any(math.isinf(v) for v in averages)


@pytest.mark.parametrize("decay", [-0.1, 1.0, NAN])
def test_ema_refuses_a_decay_outside_its_range(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"^decay: must be in \[0, 1\), got {decay}\.$"):
        ema([1.0], decay=decay)


@given(st.lists(anything, max_size=300), st.integers(5, 100))
def test_downsample_keeps_ends_extremes_and_gaps(values: list[float], most: int) -> None:
    steps, kept = downsample(range(len(values)), values, most=most)
    assert len(steps) == len(kept) <= most
    assert all(a < b for a, b in pairwise(steps))
    assert all(k == values[i] or (math.isnan(k) and math.isnan(values[i])) for i, k in zip(steps, kept, strict=True))
    if values:
        assert (steps[0], steps[-1]) == (0, len(values) - 1)
    shown, real = [v for v in kept if math.isfinite(v)], [v for v in values if math.isfinite(v)]
    assert (min(shown, default=0), max(shown, default=0)) == (min(real, default=0), max(real, default=0))
    assert all(map(math.isfinite, kept)) == all(map(math.isfinite, values))


def test_downsample_keeps_a_short_curve_whole() -> None:
    assert downsample([3, 5, 9], [1.0, NAN, 2.0], most=5)[0] == [3, 5, 9]


@pytest.mark.parametrize("value", [100.0, -100.0, NAN, INF, -INF])
def test_downsample_keeps_one_odd_value_among_many(value: float) -> None:
    values = [1.0 + 0.01 * (i % 7) for i in range(100_000)]
    values[54_321] = value
    steps, kept = downsample(range(len(values)), values, most=500)
    assert repr(value) == repr(kept[steps.index(54_321)])


def test_downsample_refuses_fewer_than_five_points() -> None:
    with pytest.raises(ValueError, match=r"^most: must be >= 5, got 4\.$"):
        downsample([1], [1.0], most=4)


def test_downsample_refuses_steps_without_values() -> None:
    with pytest.raises(ValueError, match=r"^steps: must be as many as values, got 2 and 1\.$"):
        downsample([1, 2], [1.0], most=10)


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([], False, None),
        ([NAN, INF], False, None),
        ([0.0, -1.0], True, None),
        ([2.0], False, (2.0, 2.0)),
        ([2.0, NAN, 4.0, -INF], False, (2.0, 4.0)),
        ([-1.0, 0.0, 2.0, 4.0], True, (2.0, 4.0)),
        ([1.0, 1.1, 1.2, 1.1, 1.0, 1.1, 1e9], False, (1.0, 1.2)),
        ([1.0, 1.1, 1.2, 1.1, 1.0, 1.1, 1e9], True, (1.0, 1.2)),
        ([1.0, 1.1, 1.2, 1.1, 1.0, 1.1, 1e-9], True, (1.0, 1.2)),
        ([2.0, 4.0], True, (2.0, 4.0)),
        ([2.0, 1.9, 1e9], True, (1.9, 2.0)),
        ([10.0, 9.0, 8.0] + [1.0] * 50, False, (1.0, 10.0)),
        ([10.0 ** (-i) for i in range(40)], True, (10.0**-39, 1.0)),
    ],
)
def test_robust_limits_leave_out_what_is_far_out(
    values: list[float], log: bool, expected: tuple[float, float] | None
) -> None:
    assert robust_limits(values, log=log) == expected


@given(st.lists(anything, max_size=100), st.booleans())
def test_robust_limits_are_values_of_the_curve(values: list[float], log: bool) -> None:
    limits = robust_limits(values, log=log)
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    assert (limits is None) == (not usable)
    if limits:
        assert limits[0] <= limits[1]
        assert set(limits) <= set(usable)


@pytest.mark.parametrize(
    ("series", "log"),
    [
        ([[1.0, 2.0, 3.0]], False),
        ([[1.0, 30.0]], False),
        ([[1.0, 10.0, 40.0]], True),
        ([[1.0, 2.0], [0.01, 0.02]], True),
        ([[-1.0, 1.0, 10.0, 100.0]], False),
        ([[0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 1e20]], False),
        ([[0.0, 0.0]], False),
        ([[NAN]], False),
        ([], False),
    ],
)
def test_an_axis_is_logarithmic_when_its_range_is_wide(series: list[list[float]], log: bool) -> None:
    assert axis_range(series).log is log


def test_a_range_without_values_is_0_to_1() -> None:
    assert axis_range([[NAN, INF]]) == AxisRange(0.0, 1.0, log=False)


@given(st.lists(st.lists(anything, max_size=30), max_size=3), st.sampled_from([None, True, False]))
def test_a_range_is_never_empty_and_clamps_everything(series: list[list[float]], log: bool | None) -> None:
    shown = axis_range(series, log=log)
    assert -INF < shown.low < shown.high < INF
    assert not shown.log or shown.low > 0
    for value in (v for values in series for v in values):
        (clamped,) = shown.clamp([value])
        assert math.isnan(clamped) != math.isfinite(value)
        assert not shown.shows(value) or clamped == value


def test_clamp_moves_far_values_just_outside() -> None:
    assert AxisRange(1.0, 3.0, log=False).clamp([-50.0, 2.0, 50.0]) == [-1.0, 2.0, 5.0]
    assert AxisRange(1.0, 10.0, log=True).clamp([0.0, 2.0, 1e9]) == [0.1, 2.0, 100.0]


def test_strays_are_the_points_that_an_axis_does_not_show() -> None:
    strays = AxisRange(1.0, 3.0, log=False).strays([0, 1, 2, 3, 4, 5], [0.0, 1.0, 3.0, 9.0, INF, -INF])
    assert strays == ([(3, 9.0)], [(0, 0.0)], [(4, INF), (5, -INF)])


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (-0.005, 0.105, False, ["0", "0.025", "0.05", "0.075", "0.1"]),
        (-1.5e-5, 3.1e-4, False, ["0", "1e-4", "2e-4", "3e-4"]),
        (2.2911, 2.3141, False, ["2.295", "2.3", "2.305", "2.31"]),
        (0.86, 0.951, True, ["0.86", "0.88", "0.9", "0.92", "0.94"]),
        (0.3, 20.0, True, ["1", "10"]),
        (0.6, 8.0, True, ["1", "2", "5"]),
        (1e-6, 1.0, True, ["1e-6", "1e-4", "0.01", "1"]),
        (1e-30, 1e30, True, ["1e-20", "1", "1e20"]),
    ],
)
def test_ticks_are_round_and_labelled_briefly(low: float, high: float, log: bool, expected: list[str]) -> None:
    assert labels(ticks(AxisRange(low, high, log), most=5)) == expected


@given(st.lists(anything, min_size=1, max_size=30), st.sampled_from([None, True, False]), st.integers(5, 9))
def test_every_range_has_ticks_on_it(values: list[float], log: bool | None, most: int) -> None:
    shown = axis_range([values], log=log)
    places = ticks(shown, most=most)
    assert 1 <= len(places) <= most
    assert len(labels(places)) == len(places)
    room = 1e-9 * max(abs(shown.low), abs(shown.high))
    assert shown.low - room <= places[0] <= places[-1] <= shown.high + room
    assert all(a < b for a, b in pairwise(places))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.05, "0.05"),
        (3e-4, "3e-4"),
        (1.26e6, "1.26e6"),
        (1e30, "1e30"),
        (12345.6, "12346"),
        (-2e-5, "-2e-5"),
    ],
)
def test_numbers_are_written_as_learning_rates_are(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.5 * (1 + math.cos(math.pi * i / 1000)) for i in range(1000)], False),
        ([10.0 ** (-i / 100) for i in range(600)], True),
        ([0.0] * 10, False),
        ([0.001] * 10, True),
        ([], False),
    ],
)
def test_rates_that_hug_zero_need_a_log_axis(rates: list[float], expected: bool) -> None:
    assert hugs_zero(rates, peak=1.0) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0.0), ([1.0], 0.0), ([1.0, 1.0], 0.0), ([1.0, 2.0, 4.0], 1.0), ([0.0, 1.0] * 10, 19.0)],
)
def test_roughness_is_way_over_range(values: list[float], expected: float) -> None:
    assert roughness(values) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([], []), ([4], [(4, 4)]), ([9, 1, 2, 3, 5, 20], [(1, 5), (9, 9), (20, 20)]), ([7, 7], [(7, 7)])],
)
def test_spells_group_neighbouring_steps(steps: list[int], expected: list[tuple[int, int]]) -> None:
    assert spells(steps, gap=2) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([0.0, 1.0, 2.0], "_=#"),
        ([2.0, 1.0, 0.0], "#=_"),
        ([1.0] * 9, "====="),
        ([1.0, 1.0, NAN, INF], "==xx"),
        ([1.0] * 40 + [1e30] * 10, "====#"),
        ([1000.0, 100.0, 10.0, 1.0, 0.1], "#*=._"),
    ],
)
def test_sparkline_draws_medians_of_blocks_on_the_axis_of_the_picture(values: list[float], expected: str) -> None:
    assert sparkline(values, width=5, symbols="_.-=*#") == expected


@given(st.lists(anything, max_size=80), st.integers(1, 20))
def test_sparkline_is_as_long_as_asked_whatever_the_values(values: list[float], width: int) -> None:
    assert len(sparkline(values, width=width, symbols="_#")) == min(width, len(values))
