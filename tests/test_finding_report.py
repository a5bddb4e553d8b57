"""What is told of a learning rate: published vectors, and that it degrades honestly."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.curves import number
from runner.finding.basin import basin_of, loss_at, slopes_of
from runner.finding.compare import compare, sign_test
from runner.finding.failures import edge_of, failure_bounds
from runner.finding.fit import fit, fit_quadratic
from runner.finding.group_words import group_sentences
from runner.finding.interval import interval_of
from runner.finding.observed import Observed
from runner.finding.points import LRPoint, points_of
from runner.finding.recommend import rounded
from runner.finding.report import LRReport, lr_report
from runner.finding.sensitivity import GRID, lr_sensitivity, sensitivity_on_grid, windowed_sensitivity
from runner.finding.words import brief, headline, report_sentences

# an MLP on digits with AdamW: means and seed sds of 5 seeds, without and with warmup
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
MEANS = (1.2963, 0.2365, 0.1008, 0.0941, 0.1051, 0.1901, 0.433, 1.579)
SDS = (0.0127, 0.0036, 0.0009, 0.0029, 0.0192, 0.0543, 0.084, 0.412)
WARM = (1.1759, 0.2027, 0.0973, 0.0889, 0.1006, 0.2369, 0.925, 2.201)


def observe(
    rates: tuple[float, ...] = RATES,
    means: tuple[float, ...] = MEANS,
    *,
    seeds: int = 3,
    fails_from: float = math.inf,
    group: str = "",
    first_loss: float = math.log(10),
    purpose: str = "",
    steps: int = 400,
    noise: float = 1.0,
) -> list[Observed]:
    """Runs around the measured means with the measured noise."""
    draw = random.Random(0)
    found = []
    for lr, mean, sd in zip(rates, means, SDS[: len(rates)], strict=True):
        for seed in range(seeds):
            loss, failed = abs(draw.gauss(mean, noise * sd)), lr >= fails_from
            status = "diverged" if failed else "finished"
            done = 40 if failed else steps
            found.append(
                Observed(
                    lr, seed, math.nan if failed else loss, status, group, first_loss, done, steps, purpose=purpose
                )
            )
    return found


def points(means: tuple[float, ...] = MEANS, rates: tuple[float, ...] = RATES) -> list[LRPoint]:
    return [LRPoint(lr, (mean,)) for lr, mean in zip(rates, means, strict=True)]


def test_sensitivity_is_that_of_the_definition_and_a_diverged_run_counts_as_the_initial_loss() -> None:
    assert lr_sensitivity([3.5, 3.2, 3.0, 3.1, 4.0, 12.0, math.nan], 10.4) == pytest.approx(2.3714285714, abs=1e-9)
    assert lr_sensitivity([3.5, 3.2, 3.0, 3.1, 4.0, math.inf, math.nan], 10.4) == pytest.approx(2.3714285714, abs=1e-9)


@pytest.mark.parametrize(("means", "published", "sd"), [(MEANS, 0.298, 0.072), (WARM, 0.461, 0.074)])
def test_sensitivity_on_the_grid_is_the_measured_one(means: tuple[float, ...], published: float, sd: float) -> None:
    found = sensitivity_on_grid(points(means), math.log(10))
    assert found is not None
    assert abs(found - published) < sd / math.sqrt(5)  # that of the means, and the mean over seeds


def test_sensitivity_on_the_grid_needs_all_seven_rates_and_takes_half_decades_for_them() -> None:
    half_decades = [LRPoint(10 ** (-3.5 + i / 2), (1.0,)) for i in range(7)]
    assert sensitivity_on_grid(half_decades, 5.0) == 0.0
    assert sensitivity_on_grid(half_decades[1:], 5.0) is None
    assert sensitivity_on_grid([LRPoint(lr, (), 1) for lr in GRID], 5.0) is None


def test_windowed_sensitivity_does_not_count_close_rates_twice() -> None:
    coarse = points()
    fine = sorted([*coarse, *(LRPoint(3e-3 * 10 ** (i / 1000), (0.0941,)) for i in range(1, 20))])
    few, many = (windowed_sensitivity(some, math.log(10), center=3e-3) for some in (coarse, fine))
    assert few is not None
    assert many is not None
    assert many.value == pytest.approx(few.value, rel=0.02)
    assert many.decades == pytest.approx(1.5 + math.log10(30), rel=1e-6)


def test_a_parabola_is_found_again() -> None:
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    exact = fit_quadratic(rates, [2 + 0.05 * (math.log(lr) - math.log(1.5e-3)) ** 2 for lr in rates])
    assert exact.vertex == pytest.approx(1.5e-3, rel=1e-9)
    assert exact.c2 == pytest.approx(0.05, rel=1e-9)
    found = fit_quadratic(rates, (2.30, 2.10, 2.00, 2.02, 2.20))
    assert (found.c2, found.c1, found.c0) == pytest.approx((0.04764146, 0.63488784, 4.10949904), abs=1e-8)
    assert found.vertex == pytest.approx(1.2770718e-3, rel=1e-7)
    assert found.at(found.vertex) == pytest.approx(1.99431, abs=1e-5)


@given(
    center=st.floats(-4.0, -1.0),
    bend=st.floats(0.02, 2.0),
    floor=st.floats(-3.0, 3.0),
    start=st.floats(0.0, 0.49),
)
@settings(max_examples=60, deadline=None)
def test_the_fit_finds_the_vertex_of_what_is_a_parabola(center: float, bend: float, floor: float, start: float) -> None:
    logs = [center - 1.5 + start + i / 2 for i in range(6)]
    made = [LRPoint(10**x, (math.exp(floor + bend * (x - center) ** 2),)) for x in logs]
    found = fit(made)
    assert found.is_vertex
    assert math.log10(found.lr) == pytest.approx(center, abs=1e-6)
    assert found.loss == pytest.approx(math.exp(floor), rel=1e-6)


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_loss_and_learning_rate_do_not_matter(scale: float, shift: float) -> None:
    plain = fit(points())
    other = fit([LRPoint(lr * shift, (mean * scale,)) for lr, mean in zip(RATES, MEANS, strict=True)])
    assert other.lr / shift == pytest.approx(plain.lr, rel=1e-6)


def test_losses_below_zero_are_fitted_as_they_are() -> None:
    found = fit([LRPoint(lr, (-5 + (math.log10(lr) + 2.6) ** 2,)) for lr in RATES])
    assert not found.is_log
    assert math.log10(found.lr) == pytest.approx(-2.6, abs=1e-6)


@pytest.mark.parametrize(
    ("means", "why"),
    [
        ((1.0, 1.0), "there are only 2 learning rates to fit"),
        ((1.0, 1.0, 1.0, 1.0, 1.0), "the losses do not bend upwards"),
        ((1.0, 0.9, 0.8, 0.6, 0.3), "the losses do not bend upwards"),
        ((3.0, 2.0, 1.5, 1.2, 1.0), "the lowest point of the parabola lies outside the learning rates that were tried"),
    ],
)
def test_a_parabola_that_cannot_be_trusted_leaves_the_best_that_was_tried(means: tuple[float, ...], why: str) -> None:
    found = fit(points(means, RATES[: len(means)]))
    assert (found.lr, found.why_not) == (RATES[means.index(min(means))], why)
    assert not found.is_vertex


def test_rates_too_far_from_the_best_to_be_fitted_are_told_of() -> None:
    losses = {1e-4: 0.9, 1e-3: 0.5, 1e-2: 0.1, 0.05: 0.2, 1.0: 0.8, 10.0: math.nan}
    [group] = lr_report([Observed(lr, 0, loss) for lr, loss in losses.items()]).groups
    assert group.advice.fit.points == 3
    del losses[0.05]
    report = lr_report([Observed(lr, 0, loss) for lr, loss in losses.items()])
    text = group_sentences(report, report.best)[0]
    few = "only 2 of the 4 learning rates without a failure lie within a decade of the best, too few to fit"
    assert text == f"It is the best that was tried, 0.01: {few}."


def test_a_rate_with_a_failed_seed_is_never_the_best() -> None:
    lucky = [*points(), LRPoint(1.0, (0.01,), 4)]
    assert fit(lucky).best == 3e-3


def test_bounds_of_failures_are_those_of_the_binomial_distribution() -> None:
    none = {3: 0.63, 5: 0.45, 10: 0.26, 20: 0.14, 30: 0.095, 60: 0.049}
    assert {n: pytest.approx(failure_bounds(0, n)[1], abs=0.005) for n in none} == none
    assert failure_bounds(5, 5) == pytest.approx((0.05**0.2, 1.0))
    assert failure_bounds(0, 0) == (0.0, 1.0)
    # 1 of 5, from tables of the binomial distribution: P(>= 1) = .05 at 1.02 %, P(<= 1) = .05 at 65.7 %
    assert failure_bounds(1, 5) == pytest.approx((0.0102, 0.6574), abs=1e-4)


def test_the_edge_lies_between_the_last_rate_without_a_failure_and_the_first_with_only_failures() -> None:
    some = [LRPoint(0.1, (1.0,)), LRPoint(0.2, (1.0,), 1), LRPoint(0.3, (1.0,)), LRPoint(0.4, (), 2)]
    assert edge_of(some) == (0.1, 0.2, 0.4)
    assert not edge_of(some[:1]).is_known


def test_the_basin_ends_where_the_losses_leave_it_or_runs_fail() -> None:
    flat = [LRPoint(lr, (1.0,)) for lr in (1e-3, 1e-2, 1e-1)]
    found = basin_of([*flat, LRPoint(0.3, (), 1)])
    assert found is not None
    assert (found.low, found.high, found.is_low_open, found.is_high_open) == (1e-3, 1e-1, True, False)
    assert found.decades == pytest.approx(2.0)
    far = [LRPoint(1e-3, (2.0,)), *flat[1:], LRPoint(1.0, (), 1)]
    assert basin_of(far) == (1e-2, 1e-1, 1.01, True, True), "nothing is known of what lies between"
    noisy = [LRPoint(1e-3, (1.2,)), LRPoint(1e-2, (0.9, 1.1)), LRPoint(3e-2, (2.0,))]
    wide = basin_of(noisy)
    assert wide is not None
    assert wide.level == pytest.approx(1.0 + 2 * math.sqrt(0.02))
    assert wide.low == 1e-3
    assert wide.high == pytest.approx(1e-2 * 3 ** (2 * math.sqrt(0.02)))


def test_too_high_costs_more_than_too_low_or_makes_runs_fail() -> None:
    assert slopes_of(points()).ratio == pytest.approx((0.1051 - 0.0941) / (0.1008 - 0.0941), rel=1e-9)
    failing = [*points()[:4], LRPoint(1e-2, (), 3)]
    assert slopes_of(failing).higher == math.inf
    assert math.isnan(slopes_of(points()[3:4]).higher)


def test_between_losses_that_are_decades_apart_the_line_is_straight_in_their_logarithm() -> None:
    assert loss_at([LRPoint(0.01, (1e-8,)), LRPoint(0.04, (1e-4,))], 0.02) == pytest.approx(1e-6)
    assert loss_at([LRPoint(0.01, (-1.0,)), LRPoint(0.04, (2.0,))], 0.02) == pytest.approx(0.5)
    assert loss_at([LRPoint(0.01, (0.0,)), LRPoint(0.04, (2.0,))], 0.02) == pytest.approx(1.0)
    capped = lr_report([Observed(lr, 0, loss) for lr, loss in ((0.01, 1e-4), (0.03, 1e-8), (0.06, math.nan))]).best
    assert (capped.recommended, capped.expected_loss) == (0.01, 1e-4)


def test_the_interval_holds_the_optimum_and_shrinks_with_noise() -> None:
    wide = interval_of(points_of(observe(seeds=5)), resamples=200)
    calm = interval_of(points_of(observe(seeds=5, noise=0.1)), resamples=200)
    assert wide is not None
    assert calm is not None
    assert wide.low < 3e-3 < wide.high
    assert wide.level == 0.95
    assert wide.high / wide.low > calm.high / calm.low > 1.0


def test_one_seed_has_the_interval_between_the_neighbours_of_the_best() -> None:
    found = interval_of(points())
    assert found is not None
    assert found[:2] == (1e-3, 1e-2)
    assert math.isnan(found.level)
    end = interval_of(points()[3:])
    assert end is not None
    assert end.is_low_open
    assert not end.is_high_open
    assert interval_of([LRPoint(0.1, (), 1)]) is None


def test_where_no_parabola_can_be_fitted_the_interval_reaches_to_the_neighbours() -> None:
    found = interval_of([LRPoint(0.05, (3.0,)), LRPoint(0.16, (1.0, 1.0, 1.0)), LRPoint(0.5, (), 1)])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.05, 0.5))
    assert not found.is_low_open, "the best has a worse neighbour"
    assert not found.is_high_open, "runs fail there"


def test_what_is_recommended_lies_in_its_basin_and_fresh_seeds_are_part_of_the_noise() -> None:
    runs = [Observed(lr, 0, loss) for lr, loss in ((0.01, 0.2), (0.03, 0.11), (0.1, 0.1), (0.3, 0.3))]
    one = lr_report(runs, safety=1).best
    assert math.isnan(one.noise)
    assert one.basin is not None
    assert one.basin.low < one.recommended < one.basin.high
    fresh = [Observed(one.recommended, seed, loss, purpose="verify") for seed, loss in ((7, 0.09), (8, 0.11))]
    both = lr_report([*runs, *fresh], safety=1)
    assert both.best.noise == pytest.approx(math.sqrt(2e-4))
    assert both.best.basin is not None
    assert both.best.basin.decades > one.basin.decades
    assert not any("One seed" in text for text in group_sentences(both, both.best))
    assert both.as_json()["groups"][0]["safety_ratio_is_at_least"]


def test_fresh_seeds_that_rule_the_curve_out_are_what_to_expect() -> None:
    runs = [Observed(lr, 0, loss) for lr, loss in ((0.01, 0.2), (0.03, 0.11), (0.1, 0.1), (0.3, 0.3))]
    at = lr_report(runs, safety=1).best.recommended
    fresh = [Observed(at, seed, 0.2 + seed / 1000, purpose="verify") for seed in range(3)]
    report = lr_report([*runs, *fresh], safety=1)
    assert any("too little: the former is what to expect" in text for text in group_sentences(report, report.best))


@pytest.mark.parametrize("lr", [1e-5, 0.0436, 0.3])
def test_the_interval_of_one_rate_is_that_rate(lr: float) -> None:
    found = interval_of([LRPoint(lr, (1.0, 1.1, 1.2))], resamples=50)
    assert found is not None
    assert (found.low, found.high) == (lr, lr)


def test_between_rates_a_decade_apart_no_lowest_point_is_claimed() -> None:
    found = fit([LRPoint(lr, (loss,)) for lr, loss in ((1e-4, 0.4), (1e-3, 0.094), (1e-2, 0.1), (1e-1, 0.5))])
    assert (found.lr, found.loss, found.is_vertex) == (1e-3, 0.094, False)
    assert "too far apart to tell" in found.why_not


def test_fresh_seeds_are_those_at_the_recommendation() -> None:
    runs = observe()
    lr = lr_report(runs).best.recommended
    other = [Observed(lr / 2, 20 + i, 0.2, "finished", "", 2.3, 100, 100, "", "verify") for i in range(5)]
    fresh = [Observed(lr, 10 + i, 0.1, "finished", "", 2.3, 100, 100, "", "verify") for i in range(2)]
    found = lr_report([*runs, *other, *fresh]).best.verified
    assert found is not None
    assert (found.lr, found.runs, found.mean) == (lr, 2, 0.1)


def test_seeds_in_common_decide_which_group_is_better() -> None:
    found = compare("a", "b", (1e-3, 1e-2), {0: 0.3, 1: 0.3, 2: 0.3, 9: 0.01}, {0: 0.2, 1: 0.21, 2: 0.19})
    assert (found.better, found.other, found.lrs, found.wins) == ("b", "a", (1e-2, 1e-3), 3)
    assert found.difference == pytest.approx(0.1)


def test_a_third_of_a_round_rate_is_round() -> None:
    assert rounded(0.3 / 3, down=True) == 0.1
    assert rounded(0.2 / 3, down=True) == 0.0666


def test_headline_has_the_loss_of_fresh_seeds() -> None:
    runs = observe()
    plain = lr_report(runs, loss="val loss")
    lr = plain.best.recommended
    assert "val loss about" in headline(plain)
    fresh = [
        Observed(lr, 10 + i, loss, "finished", "", 2.3, 100, 100, "", "verify") for i, loss in enumerate((0.1, 0.12))
    ]
    verified = lr_report([*runs, *fresh], loss="val loss")
    assert "val loss 0.11 ± 0.014 with 2 fresh seeds" in headline(verified)


def test_sign_test() -> None:
    assert [sign_test(5, 0), sign_test(6, 0), sign_test(0, 0), sign_test(2, 3)] == [0.0625, 0.03125, 1.0, 1.0]


def test_paired_seeds_show_a_difference_that_noise_between_seeds_would_hide() -> None:
    noise = (0.0, 5.0, -4.0, 9.0, 2.0)
    left = dict(enumerate(noise))
    right = {seed: loss + 0.5 + 0.01 * seed for seed, loss in left.items()}
    paired = compare("a", "b", (1e-3, 1e-3), left, right)
    assert (paired.is_shown, paired.wins, paired.p_sign, paired.seeds) == (True, 5, 0.0625, 5)
    assert paired.difference == pytest.approx(0.52)
    apart = compare("a", "b", (1e-3, 1e-3), left, {seed + 9: loss for seed, loss in right.items()})
    assert (apart.is_paired, apart.is_shown) == (False, False)
    assert apart.difference == pytest.approx(0.52)
    single = compare("a", "b", (1e-3, 1e-3), {0: 1.0}, {0: 2.0})
    assert math.isnan(single.error)
    assert not single.is_shown


def test_no_difference_is_shown_between_draws_of_one_distribution() -> None:
    draw = random.Random(3)
    shown = 0
    for _ in range(200):
        left, right = ({seed: draw.gauss(0, 1) for seed in range(5)} for _ in range(2))
        shown += compare("a", "b", (1.0, 1.0), left, right).is_shown
    assert shown <= 20  # 5 % of 200 are 10, 20 are 3 sd more


def test_the_recommendation_lies_in_its_interval_and_says_what_it_rests_on() -> None:
    report = lr_report(observe(), loss="val loss", fixed={"train.batch_size": "64"})
    [group] = report.groups
    assert group.interval is not None
    assert group.interval.low < group.recommended < group.interval.high
    assert group.recommended == pytest.approx(3e-3, rel=0.4)
    assert report.override_line() == f"optimizer.lr={headline(report).partition('=')[2].partition(' ')[0]}"
    text = "\n".join([*group_sentences(report, group), *report_sentences(report)])
    assert "0 of 3 runs with optimizer.lr=0.003 failed: with 95% confidence at most 63% of runs do." in text
    assert "Not varied, and the best learning rate depends on them: train.batch_size=64." in text
    assert "Cost: 24 full runs in 24 runs." in text


def test_at_the_edge_the_recommendation_is_a_third_of_the_largest_stable_rate() -> None:
    [group] = lr_report(observe(fails_from=1e-2)).groups
    assert group.advice.is_at_edge
    assert group.advice.is_capped
    assert group.recommended == pytest.approx(1e-3)
    assert group.recommended <= group.advice.edge.stable / 3
    assert (group.advice.edge.stable, group.advice.edge.hopeless) == (3e-3, 1e-2)


def test_what_the_distance_costs_is_said_and_may_be_given_up() -> None:
    report = lr_report(observe(fails_from=1e-2), loss="val loss")
    [group] = report.groups
    assert group.recommended < group.advice.uncapped == pytest.approx(group.advice.fit.lr / 10**0.05, rel=0.01)
    text = "\n".join(group_sentences(report, group))
    assert (
        f"where {number(group.advice.uncapped)} has about {number(group.uncapped_loss)}; with search.safety=1" in text
    )
    near = lr_report(observe(fails_from=1e-2), loss="val loss", safety=1)
    [bold] = near.groups
    assert bold.recommended == min(group.advice.uncapped, group.advice.edge.stable)
    assert bold.advice.is_at_edge
    assert "recommendation is" not in "\n".join(group_sentences(near, bold))
    [shy] = lr_report(observe(fails_from=1e-2), safety=10).groups
    assert shy.recommended == pytest.approx(3e-4)


def test_far_from_the_edge_nothing_is_capped() -> None:
    [group] = lr_report(observe(fails_from=3e-1)).groups
    assert not group.advice.is_at_edge
    assert group.advice.safety_ratio == pytest.approx(0.1 / group.best_lr, rel=0.4)


def test_every_run_failed_recommends_lower_rates() -> None:
    report = lr_report(observe(fails_from=0.0))
    assert math.isnan(report.best.recommended)
    assert report.best.missing.try_next == (1e-6, 3e-6, 1e-5, 3e-5)
    assert headline(report) == (
        "no recommendation: a run failed at every learning rate; try lower ones: optimizer.lr=1e-6,3e-6,1e-5,3e-5"
    )
    assert report.override_line() == ""


@pytest.mark.parametrize(("first", "last", "end", "more"), [(0, 3, "high", (3e-3, 1e-2)), (4, 8, "low", (1e-3, 3e-3))])
def test_the_best_at_an_end_asks_for_a_wider_range(first: int, last: int, end: str, more: tuple[float, ...]) -> None:
    [group] = lr_report(observe(RATES[first:last], MEANS[first:last])).groups
    assert (group.missing.end, group.missing.try_next) == (end, more)


def test_a_range_that_ends_in_failures_is_not_to_be_extended() -> None:
    [group] = lr_report(observe(RATES[:5], MEANS[:5], fails_from=1e-2)).groups
    assert group.missing.end == ""


def test_losses_that_are_no_numbers_are_failures_and_interrupted_runs_nothing() -> None:
    runs = [*observe(seeds=1), Observed(1.0, 0, math.nan), Observed(2.0, 0, 0.001, "interrupted", steps=10)]
    [group] = lr_report(runs).groups
    assert group.advice.edge.first_failing == 1.0
    assert group.runs.unfinished == {"interrupted": 1}
    assert group.rates[-1].lr == 1.0


def test_a_rate_above_the_best_at_which_nothing_was_learned_counts_as_failed() -> None:
    runs = [one._replace(loss=2.29 + one.seed / 100) if one.lr == 3e-1 else one for one in observe()]
    report = lr_report(runs)
    [group] = report.groups
    assert group.stuck == (3e-1,)
    assert (group.advice.edge.stable, group.advice.edge.hopeless) == (1e-1, 3e-1)
    assert group.rates[-1].mean == pytest.approx(2.3)
    assert "At 0.3 the loss ended no lower than it began, which counts as failed." in group_sentences(report, group)
    too_low = [one._replace(loss=2.3) if one.lr == 1e-4 else one for one in observe()]
    assert lr_report(too_low).groups[0].stuck == ()


def test_a_run_that_learned_and_then_overfitted_has_not_failed_and_one_that_lost_it_all_has() -> None:
    def report_with(**end: Any) -> LRReport:
        runs = observe()
        return lr_report([one._replace(loss=2.5 + one.seed / 100, **end) if one.lr == 3e-1 else one for one in runs])

    for end in ({"best_loss": 0.9, "train_loss": 0.01}, {"best_loss": 0.9}):
        [group] = report_with(**end).groups
        assert (group.stuck, group.advice.edge.is_known) == ((), False), end
        assert "failed up to 0.3" in " ".join(group_sentences(report_with(**end), group))
    for end in (
        {"best_loss": 0.9, "train_loss": 2.4},
        {"best_loss": 2.29, "train_loss": 2.0},
        {"train_loss": 0.01},
        {},
    ):
        [group] = report_with(**end).groups
        assert (group.stuck, group.advice.edge.hopeless) == ((3e-1,), 3e-1), end


def test_shorter_runs_tell_of_failures_and_are_not_in_the_curve() -> None:
    short = observe((1e-3, 1.0), (0.0, 0.5), steps=100, fails_from=1.0, purpose="grid")
    report = lr_report([*observe(), *short])
    [group] = report.groups
    assert group.best_loss > 0.05
    assert group.advice.edge.first_failing == 1.0
    assert group.runs.short_runs == 6
    alone = lr_report(short, full_steps=400)
    assert alone.groups[0].runs.curve_steps == 100
    assert "All runs had 25% of the full length" in " ".join(brief(alone))
    assert alone.cost.full_runs == pytest.approx(3 * 0.25 + 3 * 0.1)


def test_fresh_seeds_verify_and_cost_apart() -> None:
    fresh = observe((3e-3,), (0.0941,), seeds=5, purpose="verify")
    report = lr_report([*observe(), *fresh])
    verified = report.best.verified
    assert verified is not None
    assert (verified.runs, verified.failed, round(verified.most_failing, 2)) == (5, 0, 0.45)
    assert (report.cost.full_runs, report.cost.verify_full_runs) == (24.0, 5.0)
    assert report.best.advice.fit == lr_report(observe()).best.advice.fit


def test_groups_are_compared_by_the_seeds_that_they_share() -> None:
    warm = observe(means=WARM, group="warmup=linear", noise=0.1)
    cold = observe(group="warmup=none", noise=0.1)
    report = lr_report([*cold, *warm])
    assert [group.name for group in report.groups] == ["warmup=linear", "warmup=none"]
    [comparison] = report.comparisons
    assert (comparison.is_paired, comparison.is_shown, comparison.seeds) == (True, True, 3)
    assert comparison.difference == pytest.approx(0.0052, abs=0.001)
    assert report.override_line().startswith("warmup=linear optimizer.lr=")
    same = lr_report([*cold, *observe(group="warmup=x")])
    assert report_sentences(same)[0].startswith("No difference shown: warmup=")


def capped_beside(sgd: dict[float, float]) -> list[Observed]:
    """SGD that is best near its edge, beside AdamW that has no edge in sight; three seeds each."""
    adamw = {0.001: 0.3, 0.003: 0.19, 0.01: 0.4}
    return [
        Observed(lr, seed, loss + seed / 1000, group=f"optimizer={name}", first_loss=2.3)
        for name, losses in (("sgd", sgd), ("adamw", adamw))
        for lr, loss in losses.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("sgd", "first", "compared"),
    [
        (
            {0.03: 1.0, 0.1: 0.6, 0.3: 0.18, 1: math.nan},
            "adamw",
            "optimizer=adamw at its best rate, optimizer=sgd at its recommended rate.",
        ),
        (
            {0.02: 1.0, 0.06: 0.6, 0.3: 0.18, 0.5: math.nan},
            "adamw",
            "optimizer=sgd at its best rate and not at 0.1, which is recommended and has about 0.411, optimizer=adamw "
            "at its best rate.",
        ),
        (
            {0.01: 1.0, 0.1: 0.05, 1: math.nan},
            "adamw",
            "optimizer=sgd at its best rate and not at 0.0333, which is recommended, optimizer=adamw at its best rate.",
        ),
        (
            {0.03: 0.3, 0.1: 0.15, 0.3: 0.1, 1: math.nan},
            "sgd",
            "optimizer=sgd at its recommended rate, optimizer=adamw ",
        ),
        ({0.03: 0.3, 0.1: 0.2, 0.3: 0.18, 1: 0.5}, "sgd", "both at their best rates."),
    ],
    ids=["tried", "between", "far from what was tried", "capped and yet better", "no edge"],
)
def test_groups_are_in_the_order_of_what_to_expect_at_their_recommendations(
    sgd: dict[float, float], first: str, compared: str
) -> None:
    report = lr_report(capped_beside(sgd))
    assert report.best.name == f"optimizer={first}"
    assert headline(report).startswith(f"optimizer={first} optimizer.lr=")
    assert [group.likely_loss for group in report.groups] == sorted(group.likely_loss for group in report.groups)
    [said] = [text for text in brief(report) if "difference" in text.lower()]
    assert compared in said.partition("sign test p")[2]


def test_fresh_seeds_at_the_recommendation_decide_the_order() -> None:
    runs = capped_beside({0.03: 0.3, 0.1: 0.2, 0.3: 0.18, 1: 0.5})
    best = lr_report(runs).best
    fresh = [Observed(best.recommended, 7 + i, 0.25, group=best.name, purpose="verify") for i in range(2)]
    report = lr_report([*runs, *fresh])
    assert (best.name, report.best.name) == ("optimizer=sgd", "optimizer=adamw")
    assert report.groups[1].likely_loss == 0.25


def test_many_comparisons_are_told_of_chance_and_unequal_tuning_of_its_favour() -> None:
    runs = [*observe(RATES[:7], MEANS[:7], group="a=0"), *(one for n in range(1, 6) for one in observe(group=f"a={n}"))]
    notes = lr_report(runs).notes
    assert [note.split(",")[0] for note in notes] == [
        "The groups were tried with different numbers of learning rates",
        "Of 5 comparisons",
    ]
    assert lr_report(observe(group="a=0") + observe(group="a=1")).notes == ()


def test_a_group_of_which_every_run_failed_is_told_and_two_seeds_show_no_difference() -> None:
    runs = [*observe(group="optimizer=a"), *observe(group="optimizer=b", fails_from=0.0)]
    failed = "optimizer=b: no recommendation: a run failed at every learning rate; try lower ones: optimizer.lr="
    assert any(text.startswith(failed) for text in brief(lr_report(runs)))
    none = [one._replace(status="diverged") for one in runs]
    assert [text.partition(":")[0] for text in brief(lr_report(none))] == ["no recommendation", "Cost"]
    two = [*observe(seeds=2, group="a=1"), *observe(means=WARM, seeds=2, group="a=2")]
    assert report_sentences(lr_report(two))[0].startswith("No difference shown, as that takes 3 seeds: a=")


def test_fresh_seeds_that_end_lower_than_the_curve_are_told() -> None:
    fresh = [Observed(3e-4, 10 + i, 0.05 + i / 1e4, "finished", "", 2.3, 400, 400, "", "verify") for i in range(5)]
    report = lr_report([*observe(fails_from=1e-2), *fresh], safety=10)
    assert report.best.recommended == 3e-4
    assert any(text.startswith("That is lower than at any rate of") for text in group_sentences(report, report.best))


def test_a_basin_that_is_narrow_is_told_where_it_is() -> None:
    losses = {0.0503: 3.956e-7, 0.159: 7.048e-9, 0.212: 3.319e-9, 0.283: 3.324e-9, 0.503: math.nan}
    runs = [Observed(lr, 0, loss, first_loss=5.0) for lr, loss in losses.items()]
    report = lr_report([*runs, runs[3]._replace(seed=1)])
    [text] = [text for text in group_sentences(report, report.best) if text.startswith("Near-optimal")]
    [group] = report.groups
    assert group.basin is not None
    said = float(text.partition("nothing far from ")[2].partition(",")[0])
    assert group.basin.low * 0.99 <= said <= group.basin.high * 1.01


def test_a_recommendation_that_fresh_seeds_have_not_tried_is_told() -> None:
    fresh = [Observed(2e-3, 10 + i, 0.1, "finished", "", 2.3, 400, 400, "", "verify") for i in range(3)]
    report = lr_report([*observe(fails_from=1e-2), *fresh])
    assert report.best.recommended == 1e-3
    assert "0.001 itself was not tried with fresh seeds." in group_sentences(report, report.best)


def test_rates_that_change_nothing_are_no_advice() -> None:
    report = lr_report([Observed(lr, 0, 0.6931, first_loss=0.6931) for lr in (1e-3, 1e-2, 1e-1)])
    assert "nothing was learned at any rate" in headline(report)
    assert brief(report)[0].startswith("the lowest, but no advice: ")
    assert not any("parabola" in text for text in group_sentences(report, report.best))
    assert group_sentences(report, report.best)[0].startswith("Nothing was learned: no loss ended below where train")


def test_different_tasks_are_not_compared() -> None:
    report = lr_report([*observe(group="task=a"), *observe(means=WARM, group="task=b")])
    assert report.comparisons == ()
    assert report.notes == ("The tasks differ: their losses are not compared.",)


def test_many_settings_with_a_rate_each_are_one_curve() -> None:
    runs = [one._replace(group=f"optimizer.eps={i}") for i, one in enumerate(observe(seeds=1))]
    report = lr_report(runs)
    assert [group.name for group in report.groups] == [""]
    assert report.notes[0].startswith("optimizer.eps had 8 settings")


@given(
    st.lists(
        st.builds(
            Observed,
            st.sampled_from((1e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0)),
            st.integers(0, 2),
            st.one_of(st.floats(1e-300, 1e300), st.floats(allow_nan=True), st.just(0.0)),
            st.sampled_from(("finished", "diverged", "interrupted", "failed", "waiting")),
            st.sampled_from(("", "a=1")),
            st.floats(),
            st.integers(0, 100),
            st.sampled_from((0, 50, 100)),
            st.just("runs/x"),
            st.sampled_from(("", "grid", "verify", "range_test")),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_runs_came_to_there_is_a_report(runs: list[Observed]) -> None:
    report = lr_report(runs)
    json.dumps(report.as_json(), allow_nan=False)
    sentences = [headline(report), *brief(report), *report_sentences(report)]
    for group in report.groups:
        sentences += group_sentences(report, group)
        assert math.isnan(group.recommended) or group.recommended > 0
    assert all("nan" not in text for text in sentences)
