"""Warm starts: earlier runs of the same task as points that a study knows from the start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import ConfigError, Problem
from runner.finding.observed import KNOWN, Observed
from runner.search.page import differing
from runner.search.space import Space
from runner.search.study import Study
from runner.search.trials import LOSSES, Ended
from runner.sweep_summary import SEED
from runner.tracking.directory import CONFIG, SWEEP
from runner.tracking.jsonl import find_result, first_loss
from runner.tracking.mapping import params
from runner.tracking.sweep_file import find_sweep
from runner.tracking.sweep_runs import SweepRuns

MLFLOW = "mlflow"
PageOf = Callable[[Mapping[str, str]], Mapping[str, str]]
"""overrides -> the page of the task (`runner.search.page.page_of_task`); may raise ConfigError"""


class Earlier(NamedTuple):
    """A run that was made before.

    Attributes:
        source: names it.
        choices: config group -> option, as far as they are known.
        params: its page, dotted keys and short texts.
        ended: what it came to; its values are in `final`.
        final: metrics at its end.
        best: those of its best evaluation, as far as they are known.
    """

    source: str
    choices: Mapping[str, str]
    params: Mapping[str, str]
    ended: Ended
    final: Mapping[str, float]
    best: Mapping[str, float]


class Mlflow(NamedTuple):
    """Where earlier runs are tracked: the uri, None where nothing is; and the experiment of this task."""

    uri: str | None
    experiment: str


def find_known(entries: Sequence[str], mlflow: Mlflow, *, key: str) -> list[Earlier]:
    """Return the runs that entries name, each once.

    Args:
        entries: directories of runs or sweeps; `mlflow` for all runs of the experiment, `mlflow:<name>` of another.
        mlflow: where they are tracked.
        key: dotted key of the entries, for messages.
    Raises:
        ConfigError: an entry names nothing.
        TrackingError: the server cannot be reached.
    """
    found: dict[str, Earlier] = {}
    problems = []
    for entry in entries:
        if entry.partition(":")[0] == MLFLOW:
            if mlflow.uri is None:
                problems.append(
                    Problem(key, f"must be directories while nothing is tracked, got {entry}", "Set tracking=mlflow")
                )
                continue
            found |= {one.source: one for one in _tracked(mlflow.uri, entry.partition(":")[2] or mlflow.experiment)}
            continue
        runs = list(_directories(Path(entry)))
        if not runs:
            rule = f"must be directories of runs or sweeps, or {MLFLOW}, got {entry}"
            problems.append(Problem(key, rule, "Give a path under runs/"))
        found |= {one.source: one for run in runs if (one := _of_directory(run)) is not None}
    if problems:
        raise ConfigError(problems)
    return list(found.values())


def _directories(path: Path) -> Iterator[Path]:
    """Yield the run directories that a path stands for."""
    if (path / SWEEP).is_file():
        sweep = find_sweep(path)
        if sweep is not None:
            home = (path / sweep.launched_from).resolve()
            yield from (home / state.run for state in SweepRuns(sweep, home).states() if state.run is not None)
    elif (path / CONFIG).is_file():
        yield path.resolve()


def _of_directory(directory: Path) -> Earlier | None:
    result = find_result(directory)
    if result is None:
        return None
    ended = Ended(result.status, (), result.steps, first_loss(directory), result.verdict, str(directory))
    if result.is_out_of_time:
        ended = ended._replace(status="interrupted")
    return Earlier(str(directory), result.choices, params(directory), ended, result.final, result.best)


def _tracked(uri: str, experiment: str) -> Iterator[Earlier]:
    from runner.tracking.mlflow import ended_runs

    for run in ended_runs(uri, experiment):
        status, verdict = run.tags.get("status", ""), run.tags.get("verdict", "")
        if run.tags.get("kind") != "summary" and not (verdict.startswith("reached train.max_seconds")):
            first = first_loss(Path(run.directory)) if run.directory else math.nan
            ended = Ended(status, (), 0, first, verdict, run.directory)
            result = find_result(Path(run.directory)) if run.directory else None
            best = result.best if result is not None else {}
            yield Earlier(run.directory or run.run_id, run.tags, run.params, ended, run.metrics, best)


class Known(NamedTuple):
    """An earlier run that is a point of a space on its task.

    Attributes:
        run: what it was.
        point: dotted key -> value.
        values: one for every metric; empty where it diverged without one.
    """

    run: Earlier
    point: Mapping[str, Any]
    values: tuple[float, ...]


def sort_out(runs: Sequence[Earlier], space: Space, metrics: Sequence[str], page_of: PageOf) -> tuple[list[Known], str]:
    """Return the runs that are points of a space on its task, and what became of all of them, in a sentence.

    The seed may differ. A run that did not end, has no such metric, or lies outside the space is left out.

    Args:
        runs: made before.
        space: dotted key -> what it may be.
        metrics: what a run is judged by.
        page_of: returns the page that a point has today.
    """
    found, left_out = list[Known](), Counter[str]()
    for run in runs:
        point = _point_of(run, space, page_of)
        missing = [name for name in metrics if name not in run.final]
        if run.ended.status not in ("finished", "diverged"):
            left_out["did not end"] += 1
        elif isinstance(point, str):
            left_out[point] += 1
        elif run.ended.status == "finished" and missing:
            left_out[f"have no {missing[0]}"] += 1
        else:
            found.append(Known(run, point, () if missing else tuple(float(run.final[name]) for name in metrics)))
    reasons = "; ".join(f"{count} {why}" for why, count in left_out.most_common(3))
    return found, f"known points: {len(found)} of {len(runs)} earlier runs" + (f" ({reasons})" if reasons else "")


def learn(study: Study, runs: Sequence[Earlier], page_of: PageOf) -> str:
    """Add to a study the runs that are points of its space on its task; return what became of all, in a sentence."""
    known, sentence = sort_out(runs, study.plan.space, study.plan.metrics, page_of)
    for run, point, values in known:
        study.add_known(run.source, point, run.ended._replace(values=values))
    return sentence


def observed_of(known: Iterable[Known], key: str, *, steps: int) -> list[Observed]:
    """Return known runs for a report of the learning rate, one for each rate and seed, the last that there is.

    Args:
        known: runs that differ in nothing else.
        key: dotted key of the learning rate.
        steps: updates of a run.
    """
    found = dict[tuple[float, int], Observed]()
    for run, point, _ in known:
        is_finished, lr, seed = run.ended.status == "finished", float(point[key]), int(run.params.get(SEED, 0))
        found[lr, seed] = Observed(
            lr=lr,
            seed=seed,
            loss=next((run.final[name] for name in LOSSES if name in run.final), math.nan) if is_finished else math.nan,
            status=run.ended.status,
            first_loss=run.ended.first_loss,
            steps=steps if is_finished else run.ended.steps,
            planned_steps=steps,
            run=run.source,
            purpose=KNOWN,
            best_loss=run.best.get("loss", math.nan),
            train_loss=run.final.get("train/loss", math.nan),
        )
    return [found[at] for at in sorted(found)]


def _point_of(run: Earlier, space: Space, page_of: PageOf) -> dict[str, Any] | str:
    """Return a run as a point of the space, or why it is none."""
    texts, point = dict[str, str](), dict[str, Any]()
    for key, dimension in space.items():
        text = run.choices.get(key, run.params.get(key))
        if text is None:
            return f"have no {key}"
        try:
            value = dimension.read(text)
        except ValueError:
            value = None
        if value is None:
            return f"have {key} outside the space"
        texts[key], point[key] = text, value
    try:
        page = page_of(texts)
    except ConfigError as error:
        return f"are refused today: {error.problems[0].key}"
    different = differing(run.params, page)
    return f"differ in {different[0]}" if different else point
