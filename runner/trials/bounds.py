"""Between which learning rates to search: as given, around what is typical, or around what a range test brackets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from runner.checks.range_test import ramp_limits, why_no_ramp
from runner.config import Config, OptimizerNode, TaskNode
from runner.config_search import SearchSection, SweepSection
from runner.curves import number
from runner.errors import ConfigError, Problem, RunnerError
from runner.finding.ramp import fewest_steps, usual_steps
from runner.range_file import Tested, find_range_test, in_words, write_range_test
from runner.rates import steps_of

if TYPE_CHECKING:
    from runner.range_bracket import RangeTest
    from runner.trials.trials import Trials

_DECADES_BEYOND = 1.0  # on each side of where the best is expected
_APART = 1.01  # least ratio of the ends: rates are written in three digits
_RAMPS = 3  # at most, all together no longer than a run where that can be


class Wanted(NamedTuple):
    """What is known before anything runs.

    Attributes:
        section: sweep or search, with the ends as given.
        optimizer: whose learning rates are meant.
        task: from scratch or fine-tuning, which differ in what is typical.
    """

    section: SweepSection | SearchSection
    optimizer: OptimizerNode
    task: TaskNode

    @property
    def key(self) -> str:
        """Dotted key of the section, for messages."""
        return "search" if isinstance(self.section, SearchSection) else "sweep"

    @property
    def typical(self) -> tuple[float, float] | None:
        """The learning rates that are in use, None where none are known."""
        known = self.optimizer.typical
        found: tuple[float, float] | None = getattr(known, self.task.regime) if known is not None else None
        return found

    @property
    def needs_range_test(self) -> bool:
        """Whether nothing else tells where to search."""
        return None in (self.section.low, self.section.high) and self.typical is None

    def problems(self) -> list[Problem]:
        """Return what is wrong: ends beside a space, that cross, or need a range test that cannot be made."""
        low, high, key = self.section.low, self.section.high, self.key
        if self.section.space:
            given = {name: getattr(self.section, name, None) for name in ("low", "high", "points")}
            fix = "Give the values there, or leave it out"
            return [
                Problem(f"{key}.{name}", f"must be null with {key}.space, got {value:g}", fix)
                for name, value in given.items()
                if value is not None
            ]
        if low is not None and high is not None and low * _APART > high:
            by = "" if low >= high else f" by {_APART - 1:.0%} at least"
            rule = f"must be below {key}.high={number(high)}{by}, got {number(low)}"
            return [Problem(f"{key}.low", rule, "Change one of them")]
        if self.needs_range_test and (why := why_no_ramp(self.optimizer)) is not None:
            return [self.missing(f"a range test tells nothing of an optimizer that {why}")]
        return []

    def missing(self, why: str) -> Problem:
        """Return the problem of an end that nothing tells."""
        name = "low" if self.section.low is None else "high"
        known = f"no learning rates in use are known for {self.optimizer.target}"
        rule = f"must be given where {known} and {why}, got null"
        return Problem(f"{self.key}.{name}", rule, f"Set {self.key}.low=1e-5 {self.key}.high=1, or what you expect")

    def around(self, core: tuple[float, float] | None) -> Bounds:
        """Return the ends as given, and for one that is not a decade beyond the core and beyond the other end."""
        low, high = self.section.low, self.section.high
        if core is None:
            assert low is not None
            assert high is not None
            return Bounds(low, high, None)
        lowest = low or _half_decade(math.log10(min(core[0], high or core[0])) - _DECADES_BEYOND)
        highest = high or _half_decade(math.log10(max(core[1], low or core[1])) + _DECADES_BEYOND)
        return Bounds(lowest, highest, core)

    def provisional(self) -> Bounds:
        """Return where the ends may come to be, without a range test: for checks that come before it."""
        return self.around(self.typical or ramp_limits(self.optimizer, self.task, "exponential"))


class Bounds(NamedTuple):
    """Learning rates to search between.

    Attributes:
        low, high: its ends.
        core: where in it the best is expected: what is typical, or what a range test brackets; None where both ends
            were given and nothing is typical.
        cost: of the range test, in full runs.
    """

    low: float
    high: float
    core: tuple[float, float] | None
    cost: float = 0.0

    @property
    def middle(self) -> float:
        """Where to begin: the geometric middle of what of the core lies between the ends, or else of the ends."""
        if self.core is not None:
            low, high = max(self.low, self.core[0]), min(self.high, self.core[1])
            if low < high:
                return math.sqrt(low * high)
        return math.sqrt(self.low * self.high)


def bounds_of(config: Config, section: SweepSection | SearchSection, evaluate: Trials) -> Bounds:
    """Return where to search; where nothing else tells, a range test does.

    It is made once for a sweep: its files are in the directory, which it makes.

    Args:
        config: checked.
        section: of it, without a space.
        evaluate: whose directory it is.
    Raises:
        ConfigError: the range test suggests nothing; nothing is written.
        RunnerError: it cannot be made.
    """
    wanted = Wanted(section, config.optimizer, config.task)
    if not wanted.needs_range_test:
        return wanted.around(wanted.typical)
    test = find_range_test(evaluate.directory) or _tested(config, wanted, evaluate)
    return wanted.around((test.low, test.high))._replace(cost=test.cost)


def _half_decade(exponent: float) -> float:
    """Return the nearest of 0.1, 0.316, 1, 3.16 ..."""
    return float(10 ** (round(2 * exponent) / 2))


def _tested(config: Config, wanted: Wanted, evaluate: Trials) -> Tested:
    """Make a range test that is short beside the run, say what it found, and write it down."""
    from runner.range_bracket import range_bracket  # imports torch

    low, high = ramp_limits(config.optimizer, config.task, "exponential")
    run_steps, usual = steps_of(config), usual_steps(low, high, "exponential")
    steps = max(fewest_steps(low, high, "exponential"), min(usual, run_steps))
    test = range_bracket(config, steps=steps, repeats=max(1, min(_RAMPS, run_steps // steps)))
    if test.found.nothing is not None:
        raise ConfigError([wanted.missing(f"a range test suggests nothing ({test.found.nothing.reason})")])
    if not config.quiet:
        print(f"range test: {_told(test)}", flush=True)
    evaluate.open()
    try:
        write_range_test(evaluate.directory, test, (), title=f"{evaluate.experiment}: range test")
    except OSError as error:
        raise RunnerError(f"{evaluate.directory}: cannot be written ({error.strerror}).") from None
    found = find_range_test(evaluate.directory)
    assert found is not None
    return found


def _told(test: RangeTest) -> str:
    remark = f"; {test.remark}" if test.remark else ""
    return f"{in_words(test)}; {test.steps:,} steps, {number(test.cost, 2)} times the run{remark}"
