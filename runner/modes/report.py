"""mode=report: what an earlier sweep tells of the learning rate, written anew from its runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem, RunnerError
from runner.found_page import path_of_page, write_recommendation
from runner.lr_end import end_with_report, tags_of
from runner.tracking.directory import LR_FIGURE, LR_PAGE, LR_REPORT, output_directory
from runner.tracking.jsonl import find_result, write_result
from runner.tracking.sweep_file import JobState, Sweep, key_of, read_states, read_sweep
from runner.tracking.sweep_runs import SweepRuns


def run(
    config: Config,
    invocation: Invocation,
    *,
    directory: str | None = None,
    full_steps: int | None = None,
    write: str | None = None,
) -> None:
    """Report the sweep `source`, print the recommendation and the files, the directory last.

    Args:
        config: checked.
        invocation: how the program was called.
        directory: where the files go; None is the directory of the sweep.
        full_steps: updates of a full run; None is the longest that was declared.
        write: page to write that trains with the recommendation.

    Raises:
        ConfigError: there is no such sweep, or its learning rate did not vary.
        RunnerError: the files cannot be written.
    """
    source = Path(str(config.source.path))
    if full_steps is not None and full_steps < 1:
        rule = f"must be a number of optimizer steps >= 1, got {full_steps}"
        raise ConfigError([Problem("mode.full_steps", rule, "Leave it out for the longest that was declared")])
    sweep, states, root = _read(source)
    if write is not None:
        path_of_page(Path(write), page=sweep.page, key="mode.write")
    safety = _safety(config, invocation, source)
    place = source if directory is None else output_directory(directory, key="mode.directory", experiment="")
    try:
        told = end_with_report(
            place, sweep, states,
            root=root, source=source, full_steps=full_steps, safety=safety, quiet=config.quiet,
        )  # fmt: skip
        earlier = find_result(source)
        if told is not None and directory is None and earlier is not None:  # for mode=upload
            write_result(source, replace(earlier, tags={**earlier.tags, **tags_of(told.report)}))
    except OSError as error:
        raise RunnerError(f"{place}: cannot be written ({error.strerror}). Give another mode.directory.") from None
    if told is None:
        varied = ", ".join(dict.fromkeys(key for job in sweep.jobs for key in job.varied)) or "nothing"
        rule = (
            f"must be a sweep over at least two learning rates with a run, got {str(source)!r}, which varies {varied}"
        )
        raise ConfigError([Problem("source", rule, "Sweep optimizer.lr=1e-3,1e-2,1e-1")])
    if write is not None:
        if told.report.best.name not in told.overrides:
            rule = f"must be null where nothing is recommended, got {write!r}"
            raise ConfigError([Problem("mode.write", rule, "Try lower learning rates")])
        write_recommendation(write, told, page=sweep.page, key="mode.write", quiet=config.quiet)
    if not config.quiet:
        for name in (LR_REPORT, LR_FIGURE, LR_PAGE):
            if (place / name).is_file():
                print(place / name)
    print(place, flush=True)


def _safety(config: Config, invocation: Invocation, source: Path) -> float:
    """Return the distance from the edge: as given now, or else as the last report of the sweep had it."""
    if not any(key_of(text) == "search.safety" for text in invocation.overrides):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            return float(json.loads((source / LR_REPORT).read_text(encoding="utf-8"))["groups"][0]["safety"])
    return config.search.safety


def _read(source: Path) -> tuple[Sweep, list[JobState], Path]:
    """Return a sweep, what its jobs came to, and its directory of launch; runs that are gone are as written down."""
    try:
        sweep, written = read_sweep(source), read_states(source)
    except (OSError, ValueError) as error:
        rule = f"must be the directory of a sweep with a sound sweep.json, got {str(source)!r} ({error})"
        raise ConfigError([Problem("source", rule, "Restore the file")]) from None
    if not sweep.jobs:
        raise ConfigError([Problem("source", f"must be a sweep with jobs, got {str(source)!r}", "Give another one")])
    root = source / sweep.launched_from
    found = SweepRuns(sweep, root).states(is_over=True)
    states = [now if now.run is not None else old for now, old in zip(found, written, strict=True)]
    return sweep, states, root
