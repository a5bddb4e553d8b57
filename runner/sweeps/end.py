"""The end of a sweep: table, sweep.json, sweep.png, the report of its learning rates, and its summary in MLflow."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from runner.commands import PROGRAM
from runner.config import Tracking
from runner.errors import SweepError
from runner.lr_end import Told, metrics_of, safe_end, tags_of
from runner.records import OUT_OF_TIME, EvalRecord, RunResult, Status
from runner.report.sweep_figure import Dot, sweep_figure
from runner.sweep_summary import Setting, in_numbers, is_setting, summarise
from runner.sweeps.resume import KEY
from runner.tracking.address import absolute, shown
from runner.tracking.directory import RECORDS, SWEEP_FIGURE, TRACEBACK, git_commit, versions
from runner.tracking.jsonl import RecordWriter, find_result, read_records, write_result
from runner.tracking.sweep_file import LIMIT, STOP, Job, JobState, Sweep, outcome, write_sweep
from runner.tracking.sweep_observed import Stand, loss_name
from runner.tracking.sweep_table import print_settings
from runner.tracking.transfer import has_all

if TYPE_CHECKING:
    from runner.tracking.follower import Follower

_NO_JOB = "no job was made"
Use = Callable[["Told | None"], None]
"""takes what was told of the learning rates, None where that was nothing"""


def finish(
    directory: Path,
    sweep: Sweep,
    states: Sequence[JobState],
    *,
    tracking: Tracking,
    signal: Signals | None,
    safety: float,
    is_search: bool = False,
    quiet: bool = False,
    use: Use | None = None,
    stand: Stand | None = None,
    follow: Callable[..., Follower] | None = None,
) -> Told | None:
    """Write and print what came of a sweep, its directory last.

    Args:
        directory: of the sweep.
        sweep: its jobs.
        states: what they came to, in the same order.
        tracking: where the summary is sent.
        signal: what ended the sweep, if anything did.
        safety: a recommendation is at most the largest stable learning rate over this.
        is_search: whether more jobs would have been asked for, had no signal come.
        quiet: only the directory on standard output; who did not finish, and warnings, on standard error.
        use: is called with what was told of its learning rates, before the directory is printed, unless it was cut.
        stand: stands for its jobs where it has none.
        follow: starts to send the summary; None is `start_follower`.
    Returns:
        what was told of its learning rates; None where they did not vary.
    Raises:
        SweepError: no job finished, a signal ended it, or it cannot be written.
    """
    first = sweep.jobs[0] if sweep.jobs else stand.job if stand is not None else None
    if first is None:
        return _finish_empty(directory, sweep, signal)
    settings = summarise([outcome(job, state) for job, state in zip(sweep.jobs, states, strict=True)])
    statuses = Counter(state.status for state in states)
    is_cut = bool(statuses.keys() & {"interrupted", "waiting"}) or (is_search and signal is not None)
    status = _status(statuses, signal if is_cut else None)
    go_on = _go_on(directory, sweep, states)
    _tell(directory, sweep, states, settings, quiet=quiet)
    result = _result(directory, sweep, first, states, settings, status)
    try:
        write_sweep(directory, sweep, states, status=status, settings=settings)
        (directory / STOP).unlink(missing_ok=True)
        if sweep.jobs:
            _draw(directory, sweep, states, loss_name(states), in_numbers(statuses))
        told = safe_end(directory, sweep, states, root=Path.cwd(), safety=safety, quiet=quiet, stand=stand)
        result = _record(directory, result, settings, statuses, told)
    except OSError as error:
        raise _unwritable(directory, error, f"write it with: {go_on}") from None
    if tracking.uri is not None:
        _send(directory, result, states, tracking, follow)
    is_left = status == "interrupted" or is_cut or statuses["failed"]
    _hand_on(told, None if is_cut else use, directory, go_on=go_on if is_left and not quiet else "")
    _raise_if_bad(status, statuses, signal)
    return told


@contextmanager
def cut_short(directory: Path) -> Iterator[None]:
    """Say how to write the rest of a report that Ctrl-C cuts short.

    Args:
        directory: of the sweep.
    """
    try:
        yield
    except KeyboardInterrupt:
        go_on = shlex.join([*PROGRAM, f"{KEY}={directory}"])
        print(f"the report was not written to its end; do that with: {go_on}", file=sys.stderr)
        raise


def _unwritable(directory: Path, error: OSError, then: str) -> SweepError:
    return SweepError(f"{directory}: cannot be written ({error.strerror}). Mend that, then {then}", exit_code=1)


def _hand_on(told: Told | None, use: Use | None, directory: Path, *, go_on: str) -> None:
    """Say how to go on, let the caller use what was told, and print the directory, whatever comes of that."""
    if go_on:
        print(f"go on with: {go_on}")
    try:
        if use is not None:
            use(told)
    finally:
        print(directory, flush=True)


def _finish_empty(directory: Path, sweep: Sweep, signal: Signals | None) -> Told | None:
    """End a sweep that had nothing to run, such as a search of a study that has all its trials."""
    try:
        write_sweep(directory, sweep, (), status="finished" if signal is None else "interrupted")
        (directory / STOP).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(directory, error, f"go on with: {_go_on(directory, sweep, ())}") from None
    print(directory, flush=True)
    if signal is not None:
        raise SweepError(f"interrupted by {signal.name}: {_NO_JOB}", exit_code=128 + signal)
    return None


def _raise_if_bad(status: Status, statuses: Mapping[str, int], signal: Signals | None) -> None:
    if status == "interrupted" and signal is not None:
        raise SweepError(f"interrupted by {signal.name}: {in_numbers(statuses) or _NO_JOB}", exit_code=128 + signal)
    if status not in ("finished", "interrupted"):
        raise SweepError(f"no job finished: {in_numbers(statuses)}", exit_code=3 if status == "diverged" else 1)


def _go_on(directory: Path, sweep: Sweep, states: Sequence[JobState]) -> str:
    """Return the command that goes on with a sweep; past a time limit that its jobs ran into."""
    is_late = any(state.verdict.startswith(OUT_OF_TIME) for state in states) and not sweep.varies(LIMIT)
    return shlex.join([*PROGRAM, f"{KEY}={directory}", *([f"{LIMIT}=null"] if is_late else [])])


def _tell(
    directory: Path, sweep: Sweep, states: Sequence[JobState], settings: Sequence[Setting], *, quiet: bool
) -> None:
    """Print the table, and say on standard error which jobs went wrong, and where the tracebacks are."""
    if settings and not quiet:
        print_settings(settings, loss_name(states))
    bad = ("failed", "diverged") if quiet else ("failed",)  # the table has the latter
    for job, state in zip(sweep.jobs, states, strict=True):
        if state.status in bad:
            print(f"job {job.number} of {len(states)} ({job.name}): {state.verdict}", file=sys.stderr)
    if any(state.status == "failed" for state in states) and (directory / TRACEBACK).exists():
        print(f"tracebacks: {directory / TRACEBACK}", file=sys.stderr)


def _status(statuses: Mapping[str, int], signal: Signals | None) -> Status:
    if signal is not None:
        return "interrupted"
    if statuses.get("finished") or not statuses:  # others have made all that was wanted
        return "finished"
    if statuses.get("interrupted") and not statuses.get("failed"):
        return "interrupted"
    return "diverged" if set(statuses) == {"diverged"} else "failed"


def _draw(directory: Path, sweep: Sweep, states: Sequence[JobState], loss: str, verdict: str) -> None:
    dots, keys = [], [key for key in sweep.jobs[0].varied if key != "optimizer.lr" and is_setting(key)]
    for job, state in zip(sweep.jobs, states, strict=True):
        label = " ".join(value for key, value in job.varied.items() if key in keys)
        dots.append(Dot(label, job.lr, state.final_loss, state.status))
    title = f"{sweep.jobs[0].experiment}: {' x '.join(filter(is_setting, sweep.jobs[0].varied)) or 'one setting'}"
    try:
        sweep_figure(dots, directory / SWEEP_FIGURE, title=title, verdict=verdict, loss=loss, legend=", ".join(keys))
    except (OSError, ValueError) as error:
        _warn(f"{SWEEP_FIGURE}: no picture ({error})")


def _result(
    directory: Path, sweep: Sweep, first: Job, states: Sequence[JobState], settings: Sequence[Setting], status: Status
) -> RunResult:
    """Return the sweep in the words of a run, so that its directory can be sent to MLflow like one."""
    best = settings[0] if settings and not math.isnan(settings[0].final.mean) else None
    earlier = find_result(directory)
    verdict = in_numbers(Counter(state.status for state in states)) or _NO_JOB
    if best is not None and best.varied:
        verdict += "; best " + " ".join(f"{key}={value}" for key, value in best.varied.items())
    return RunResult(
        mode=sweep.mode,
        status=status,
        verdict=verdict,
        title=f"sweep {sweep.id}",
        experiment=first.experiment,
        command=sweep.command,
        seed=first.seed,
        overrides=sweep.overrides,
        tags={"kind": "summary", "sweep": sweep.id},
        steps=sum(state.steps for state in states),
        planned_steps=sum(state.planned_steps for state in states),
        final={"final_loss": best.final.mean} if best is not None else {},
        seconds=round(sum(state.seconds for state in states), 3),
        versions=versions(),
        commit=git_commit(Path.cwd()),
        mlflow_run_id=earlier.mlflow_run_id if earlier is not None else None,
    )


def _record(
    directory: Path,
    result: RunResult,
    settings: Sequence[Setting],
    statuses: Mapping[str, int],
    told: Told | None,
) -> RunResult:
    """Append the numbers of the sweep as one record, its step the number of earlier launches; return its result."""
    metrics = {name: float(statuses.get(name, 0)) for name in ("finished", "diverged", "failed", "interrupted")}
    metrics["jobs"] = float(sum(statuses.values()))
    best = [setting.best.mean for setting in settings if not math.isnan(setting.best.mean)]
    final = [setting.final.mean for setting in settings if not math.isnan(setting.final.mean)]
    metrics |= {"best_val_loss": min(best)} if best else {}
    metrics |= {"final_loss": min(final)} if final else {}
    if told is not None:
        metrics |= metrics_of(told.report)
        result = replace(result, tags={**result.tags, **tags_of(told.report)})
    path = directory / RECORDS
    launches = sum(1 for _ in read_records(directory)) if path.exists() else 0
    with RecordWriter(directory) as writer:
        writer.write(EvalRecord(launches, time.time_ns() // 1_000_000, "sweep", metrics))
    write_result(directory, result)
    return result


def _send(
    directory: Path,
    result: RunResult,
    states: Sequence[JobState],
    tracking: Tracking,
    follow: Callable[..., Follower] | None,
) -> None:
    """Send the summary, and write down which MLflow run it is; name all runs that have not arrived."""
    assert tracking.uri is not None
    uri = tracking.uri
    from runner.tracking.follower import start_follower

    follower = (follow or start_follower)(directory, uri=uri, warn=_warn)
    run_id = follower.finish(tracking.wait_seconds)
    runs = [Path(state.run) for state in states if state.run is not None]
    missing = [run for run in runs if not has_all(run, shown(absolute(uri)))]
    missing += [directory] if not (follower.delivered or follower.is_sending) else []
    if missing:
        sources = f"source={','.join(map(str, missing))}"
        later = shlex.join([*PROGRAM, "-m", "mode=upload", sources, f"tracking.uri={shown(uri)}"])
        count = f"{len(missing)} of {len(runs) + 1} runs, the summary counted, have not arrived"
        _warn(f"tracking.uri: {count}; send them later with: {later}")
    write_result(directory, replace(result, mlflow_run_id=run_id or result.mlflow_run_id))


def _warn(text: str) -> None:
    print(f"warning {text}", file=sys.stderr)
