"""The default search of a learning rate, asked on curves that are known."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.finding.fit import fit
from runner.finding.observed import Observed
from runner.finding.points import points_of
from runner.finding.procedure import Limits, next_asks, spent, verify_asks
from runner.finding.report import lr_report
from runner.finding.words import headline

LIMITS = Limits(1e-3, 0.0, math.inf, seed=0, budget=6, verify=5, full_steps=100)


def made(lr: float, seed: int, loss: float, *, purpose: str = "") -> Observed:
    diverged = math.isnan(loss)
    return Observed(
        lr, seed, loss, "diverged" if diverged else "finished", "", 2.3, 30 if diverged else 100, 100, "", purpose
    )


def search(loss: Callable[[float], float], limits: Limits = LIMITS, *, noise: float = 1e-3) -> list[Observed]:
    """Make every run that is asked for; each seed adds a little to the loss."""
    seen: list[Observed] = []
    while asks := next_asks(seen, limits):
        seen += [made(ask.lr, ask.seed, loss(ask.lr) * (1 + noise * ask.seed), purpose=ask.purpose) for ask in asks]
        assert len(seen) < 100
    return seen


def valley(best: float, *, edge: float = math.inf) -> Callable[[float], float]:
    """Loss of a run: a parabola in log10 lr, no number from the edge on."""
    return lambda lr: math.nan if lr >= edge else 0.1 * math.exp(min(math.log10(lr / best) ** 2, 3.0))


@given(st.floats(-4.2, -1.8))
def test_minimum_of_a_parabola_is_found_within_the_budget(exponent: float) -> None:
    seen = search(valley(10**exponent))
    assert fit(points_of(seen)).lr == pytest.approx(10**exponent, rel=0.02)
    assert spent(seen, LIMITS) <= LIMITS.budget


@given(st.floats(-6, 0), st.floats(0.3, 3.0), st.integers(4, 20))
def test_no_run_is_asked_for_twice(exponent: float, edge: float, budget: int) -> None:
    limits = LIMITS._replace(budget=budget)
    seen = search(valley(10**exponent, edge=10 ** (exponent + edge)), limits)
    assert len({(one.lr, one.seed) for one in seen}) == len(seen)
    assert spent(seen, limits) <= budget + 0.05


def test_search_ends_where_no_rate_trains() -> None:
    limits = LIMITS._replace(budget=1e9)
    seen = search(lambda lr: math.nan, limits)
    assert len(seen) < 10
    assert max(one.lr for one in seen) / min(one.lr for one in seen) == pytest.approx(10**5.5, rel=0.01)


def test_search_ends_at_once_where_runs_break_down_before_their_first_update() -> None:
    seen = [Observed(ask.lr, ask.seed, math.nan, "diverged", planned_steps=100) for ask in next_asks([], LIMITS)]
    assert next_asks(seen, LIMITS) == []
    report = lr_report(seen)
    assert (
        headline(report)
        == "no recommendation: every run broke down before its first update, which no learning rate causes"
    )
    assert next_asks([seen[0], seen[1]._replace(steps=1)], LIMITS) != []


def test_two_runs_begin_half_a_decade_apart() -> None:
    asks = next_asks([], LIMITS)
    assert [(ask.lr, ask.seed, ask.purpose) for ask in asks] == [(5.62e-4, 0, "start"), (1.78e-3, 0, "start")]


def test_rounding_leaves_no_bound() -> None:
    limits = LIMITS._replace(low=0.0012345, high=0.0098765)
    seen = [*search(valley(1e-4), limits), *search(valley(1.0), limits)]
    assert (min(one.lr for one in seen), max(one.lr for one in seen)) == (0.0012345, 0.0098765)


def test_bounds_are_not_left() -> None:
    assert max(one.lr for one in search(valley(3e-2))) > 2e-2
    bounded = search(valley(3e-2), LIMITS._replace(low=1e-4, high=1e-2))
    assert max(one.lr for one in bounded) == 1e-2
    narrow = search(valley(1e-3), LIMITS._replace(low=9e-4, high=1.1e-3))
    assert {one.lr for one in narrow} == {9e-4, 1.1e-3}


def test_rates_that_all_break_down_are_followed_downwards_at_little_cost() -> None:
    seen = search(valley(1e-6, edge=1e-5))
    rates = [one.lr for one in seen]
    assert rates[2] == pytest.approx(5.62e-5, rel=0.01)  # a decade lower
    assert spent(seen, LIMITS) <= 6
    assert fit(points_of(seen)).lr < 1e-5


def test_where_nothing_is_learned_the_rate_goes_up_in_leaps_and_the_gap_is_halved_later() -> None:
    def loss(lr: float) -> float:
        return 2.3 - 2 / (1 + (lr / 0.1) ** -3) if lr < 0.5 else math.nan

    rates = [one.lr for one in search(loss)]
    assert rates[2] == pytest.approx(1.78e-2, rel=0.01)
    assert any(0.03 < lr < 0.3 for lr in rates)


def test_stuck_runs_above_the_best_count_as_broken_down() -> None:
    losses = {1e-6: 2.3, 1e-4: 0.5, 1e-3: 0.1, 1e-2: 0.4, 1e-1: 2.29}
    points = points_of([made(lr, 0, loss) for lr, loss in losses.items()])
    assert [point.lr for point in points if point.failed] == [1e-1]  # the lowest is merely too low


def test_seeds_come_where_the_best_has_a_worse_neighbour_on_each_side() -> None:
    seen = search(valley(8e-4), LIMITS._replace(budget=12))
    assert {one.purpose for one in seen} == {"start", "step", "seeds"}
    repeated = [one.lr for one in seen if one.purpose == "seeds"]
    assert set(repeated) <= {1.78e-4, 5.62e-4, 1.78e-3}
    assert max(map(repeated.count, repeated)) - min(map(repeated.count, repeated)) <= 1


def test_fresh_seeds_verify_once() -> None:
    seen = [one for one in search(valley(1e-3)) if one.seed == 0]
    asks = verify_asks(seen, 1.02e-3, LIMITS)
    assert [ask.seed for ask in asks] == [1, 2, 3, 4, 5]
    seen += [made(ask.lr, ask.seed, 0.1, purpose="verify") for ask in asks[:2]]
    assert [ask.seed for ask in verify_asks(seen, 1.02e-3, LIMITS)] == [3, 4, 5]


def test_an_edge_that_bounds_the_answer_is_looked_at_more_closely() -> None:
    def rates(safety: float) -> list[float]:
        return [one.lr for one in search(valley(1.3e-3, edge=4e-3), LIMITS._replace(safety=safety))]

    assert max(lr for lr in rates(3.0) if lr < 4e-3) == 3.17e-3
    assert max(lr for lr in rates(1.0) if lr < 4e-3) == 1.78e-3


def test_where_seeds_make_no_difference_gaps_are_halved_instead() -> None:
    seen = search(valley(1.2e-3), LIMITS._replace(budget=8), noise=0.0)
    assert min(abs(one.lr - 1.2e-3) for one in seen) < 1.5e-4


def test_known_runs_count_for_the_curve_and_not_for_the_budget() -> None:
    loss = valley(8e-4)
    known = [made(lr, 7, 1.007 * loss(lr), purpose="known") for lr in (1e-4, 3.16e-4, 1e-3, 3.16e-3)]
    seen = list(known)
    while asks := next_asks(seen, LIMITS):
        seen += [made(ask.lr, ask.seed, loss(ask.lr) * (1 + 1e-3 * ask.seed), purpose=ask.purpose) for ask in asks]
    own = seen[len(known) :]
    assert {one.purpose for one in own} == {"seeds"}, "the best has a worse neighbour on each side"
    assert len(own) == 6
    assert spent(seen, LIMITS) == 6


def test_one_known_run_does_not_replace_the_start_but_is_not_made_again() -> None:
    start = [ask.lr for ask in next_asks([], LIMITS)]
    seen = [made(start[0], 0, 0.1, purpose="known")]
    assert [(ask.lr, ask.purpose) for ask in next_asks(seen, LIMITS)] == [(start[1], "start")]


def test_a_machine_that_trains_nothing_is_not_asked_for_ever() -> None:
    seen: list[Observed] = []
    while asks := next_asks(seen, LIMITS):
        seen += [Observed(ask.lr, ask.seed, math.nan, "failed", purpose=ask.purpose) for ask in asks]
        assert len(seen) < 20


def test_from_a_lower_bound_the_search_looks_upwards() -> None:
    known = [made(1e-3, 7, 0.5, purpose="known")]
    asks = next_asks([*known, made(1e-3, 0, 0.51)], LIMITS._replace(low=1e-3))
    assert all(ask.lr > 1e-3 for ask in asks)
