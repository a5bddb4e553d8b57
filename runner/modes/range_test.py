"""mode=range_test: raise the learning rate until the loss blows up, and print a bracket of the best one."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from runner.commands import PROGRAM
from runner.config import Config, Invocation
from runner.curves import number
from runner.errors import NoSuggestionError, RunnerError
from runner.finding.ramp import FEWEST, Ramp
from runner.finding.range_curve import Spread
from runner.range_bracket import REPEATS, RangeTest, Verified, range_bracket
from runner.range_bracket import verify as verify_range
from runner.range_file import in_words, overrides_of, write_range_test
from runner.tracking.directory import RANGE_FIGURE, RANGE_TEST, output_directory
from runner.tracking.sweep_file import key_of
from runner.tracking.tables import print_table, rounded

_FROM = {
    "valley": "half-way down the longest descent (fastai's default)",
    "minimum/10": "a tenth of the rate of the lowest loss (fastai)",
    "steep": "steepest descent over the logarithm of the rate (fastai)",
    "slide": "where slopes 15 points apart are alike (fastai)",
    "lightning": "steepest descent over the rate itself (Lightning)",
    "smith low": "where the loss starts to fall (Smith)",
    "smith high": "where it rises or is ragged (Smith)",
    "stop": "where the loss blew up, or the ramp ended",
}
_WHY = (
    "that is a bracket, not an answer: a ramp stays a few steps at each rate, with neither warmup nor decay, so it "
    "shows where learning begins and ends, not which rate ends lowest; and another length, batch size, warmup, "
    "number format or data order moves that"
)


def run(
    config: Config,
    invocation: Invocation,
    *,
    low: Annotated[float, Gt(0)] | None = None,
    high: Annotated[float, Gt(0)] | None = None,
    steps: Annotated[int, Ge(FEWEST), Le(1_000_000)] | None = None,
    repeats: Annotated[int, Ge(1), Le(100)] = REPEATS,
    shape: Literal["exponential", "linear"] = "exponential",
    sharpness: bool = True,
    verify: bool = False,
    directory: Annotated[str, MinLen(1)] | None = None,
) -> None:
    """Ramp the learning rate on copies of the training; print rules, bracket, cost and how to go on, then where it is.

    Args:
        config: checked.
        invocation: how the program was called.
        low, high, steps, repeats, shape, sharpness: as `range_bracket` takes them.
        verify: whether short schedules around the middle of the bracket are made too.
        directory: where report and picture go; None for a new one.

    Raises:
        NoSuggestionError: the ramps tell no bracket; all is written.
        RunnerError: the run cannot be made, or the files cannot be written.
    """
    count = itertools.count(1)

    def on_ramp(ramp: Ramp) -> None:
        if not config.quiet:
            print(f"ramp {next(count)}: {_ending(ramp)}", flush=True)

    test = range_bracket(
        config, low=low, high=high, steps=steps, repeats=repeats, shape=shape, sharpness=sharpness, on_ramp=on_ramp
    )
    tried = verify_range(config, test.found.middle) if verify and test.found.nothing is None else []
    if not config.quiet:
        _show(test, tried)
    if test.found.nothing is None:
        print(_go_on(test, invocation), flush=True)
    given = directory if invocation.sweep is None else None  # a multirun has one for each of its jobs
    print(_write(config, invocation, test, tried, given), flush=True)
    if test.found.nothing is not None:
        blew_up = all(ramp.stopped for ramp in test.ramps)
        raise NoSuggestionError(f"{in_words(test)}. {test.found.nothing.advice}.", exit_code=3 if blew_up else 1)


def _ending(ramp: Ramp) -> str:
    way = f"{len(ramp.lrs):,} steps, lr {number(ramp.lrs[0], 2)} to {number(ramp.stop, 2)}"
    return f"{way}, stopped: {ramp.stopped}" if ramp.stopped else f"{way}, to its end"


def _show(test: RangeTest, tried: Sequence[Verified]) -> None:
    """Print what every rule says, the bracket and its doubt, what it cost, and how to go on."""
    found = test.found
    if found.rules:
        rows = [[f"{name:<12}{_FROM[name]}", *_cells(spread)] for name, spread in found.rules.items()]
        print_table(["rule", "suggests", "least", "most"], rows)
        print(in_words(test))
    for line in (test.sharpness.text if test.sharpness is not None else "", test.remark):
        if line:
            print(line)
    if found.rules:
        print(_WHY)
    if tried:
        _show_verified(test, tried)
    spent = test.steps + sum(one.steps for one in tried)
    print(f"cost: {spent:,} steps, {spent / test.run_steps:.2g} times the run")


def _cells(spread: Spread) -> list[str]:
    return [number(value, 2) for value in spread]


def _go_on(test: RangeTest, invocation: Invocation) -> str:
    """Return the command to go on with."""
    kept = [text for text in invocation.overrides if key_of(text).partition(".")[0] not in ("mode", "search", "quiet")]
    return f"go on with: {shlex.join([*PROGRAM, *invocation.page, *kept, *overrides_of(test)])}"


def _show_verified(test: RangeTest, tried: Sequence[Verified]) -> None:
    middle = number(test.found.middle, 2)
    best = min(tried, key=lambda one: sum(one.losses))
    verdict = "lowest" if best is tried[1] else "lowest, at an end: look beyond"
    rows = [[number(one.lr, 2), *map(rounded, one.losses), verdict if one is best else ""] for one in tried]
    print(
        f"a quarter of the run at 0.3, 1 and 3 times the middle of the bracket, {middle}, each falling to 0; "
        "the whole run may end lowest at another rate:"
    )
    print_table(["optimizer.lr", *(f"loss {k + 1}" for k in range(len(tried[0].losses))), ""], rows)


def _write(
    config: Config, invocation: Invocation, test: RangeTest, tried: Sequence[Verified], directory: str | None
) -> Path:
    """Write report and picture; return where they are."""
    name = config.name or invocation.choices["task"]
    place = output_directory(directory, key="mode.directory", experiment=f"{name}/range_tests")
    try:
        write_range_test(place, test, tried, title=f"{name}: {invocation.choices['optimizer']}, range test")
    except OSError as error:
        raise RunnerError(f"{place}: cannot be written ({error.strerror}). Give another mode.directory.") from None
    if not config.quiet:
        print(f"{place / RANGE_TEST}\n{place / RANGE_FIGURE}")
    return place
