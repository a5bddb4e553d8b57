"""Rules for detectors and remedies: what they watch must exist, and who asks must be heard."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import yaml

from runner.config import Config
from runner.detectors.metric import TRAIN_LOSS, MetricOfSplit
from runner.detectors.protocol import Detector
from runner.errors import nearest
from runner.nodes import Node, conf_directory
from runner.signatures import filled_in, hints_of, locate
from runner.wording import Findings

DEFAULT = "default"
"""option that stands for the default detectors"""
STOP = "runner.remedies.stop.Stop"


def check_watched(found: Findings, *, splits: Mapping[str, int], goals: Mapping[str, Literal["min", "max"]]) -> None:
    """Check detectors and remedies against the task.

    Args:
        found: takes the problems; its sections are read.
        splits: split -> number of examples; empty when the task has no data set.
        goals: metric of an evaluation -> whether less or more is better.
    """
    wrong = {problem.key for problem in found.problems}
    known = {TRAIN_LOSS: "min"}
    known |= {f"val/{name}": goal for name, goal in goals.items()} if "val" in splits else {}
    for name, node in found.sections.get("detectors", {}).items():
        if not any(key.startswith(f"detectors.{name}.") for key in wrong):
            for argument, metric in _metrics(node):
                _check_metric(f"detectors.{name}", argument, metric, node.arguments.get("mode"), known, found)
    for name, node in found.sections.get("remedies", {}).items():
        if node.target.endswith(".RestoreBest") and "val" not in splits:
            rule = f"must be left out for a task without a val split, which has no best weights, got {node.target!r}"
            found.add(f"remedies.{name}", rule, "Set remedy=[reduce_lr,stop]")


def _check_metric(key: str, argument: str, metric: str, mode: Any, known: Mapping[str, str], found: Findings) -> None:
    if metric not in known:
        close = nearest(metric, list(known)) or next(iter(known))
        rule = f"must be a metric of the task ({', '.join(known)}), got {metric!r}"
        found.add(f"{key}.{argument}", rule, f"Set {key}.{argument}={close}")
    elif mode is not None and mode != known[metric]:
        better = "less" if known[metric] == "min" else "more"
        rule = f"must be {known[metric]} for {metric}, of which {better} is better, got {mode!r}"
        found.add(f"{key}.mode", rule, f"Set {key}.mode={known[metric]}")


def _metrics(node: Node) -> Iterator[tuple[str, str]]:
    """Yield (argument, metric) for each argument of a detector that names a metric of a split."""
    try:
        hints = hints_of(locate(node.target))
    except LookupError:
        return
    yield from ((name, value) for name, value in node.arguments.items() if hints.get(name) == MetricOfSplit)


def deaf_remedy(config: Config) -> str:
    """Say that a remedy waits for a detector that is not active."""
    active = list(config.detectors)
    if not active and config.remedies:
        names = ", ".join(config.remedies)
        return f"detectors: none is active, so nothing sets off {names}. Set detector=[{DEFAULT}], or remedy=[]."
    for name, node in config.remedies.items():
        asked = node.arguments.get("detectors")
        missing = [detector for detector in asked if detector not in active] if isinstance(asked, list) else []
        if missing:
            return (
                f"remedies.{name}.detectors: {', '.join(missing)} is not active, so {name} never answers it. "
                f"Set detector=[{','.join(in_short([*active, *missing]))}]."
            )
    return ""


def after_stop(config: Config) -> str:
    """Say that a remedy is asked only after one that has ended the run."""
    names = list(config.remedies)
    ends = next((i for i, name in enumerate(names) if config.remedies[name].target == STOP), len(names))
    if ends >= len(names) - 1:
        return ""
    later, first = names[ends + 1 :], names[:ends]
    asked = ",".join([*first, *later, names[ends]])
    return (
        f"remedies.{later[0]}: comes after {names[ends]}, which ends the run first when an alarm is a stop. "
        f"Set remedy=[{asked}]."
    )


def in_short(names: list[str]) -> list[str]:
    """Return names of detectors with the word for the default list in place of it."""
    default = default_detectors()
    if not set(default) <= set(names):
        return names
    return [DEFAULT, *(name for name in names if name not in default)]


def early_stop_first(config: Config) -> str:
    """Say that the run ends before its first plateau."""
    stop = config.train.early_stop
    for name, node in config.detectors.items():
        patience, metric = node.arguments.get("patience"), node.arguments.get("metric")
        if metric != f"val/{stop.metric}" or not isinstance(patience, int) or stop.patience is None:
            continue
        if stop.patience <= patience:
            return (
                f"train.early_stop.patience: {stop.patience} ends the run before detector {name} with its patience of "
                f"{patience} finds anything. Set train.early_stop.patience={2 * patience + 2} or more."
            )
    return ""


def never_judged(config: Config) -> str:
    """Say that a metric of the val split is watched that is computed at the end only."""
    watched = [name for name, node in config.detectors.items() if any(m != TRAIN_LOSS for _, m in _metrics(node))]
    if not watched or config.train.eval_every is not None:
        return ""
    return _never_evaluated(watched[0])


def _never_evaluated(detector: str) -> str:
    """Say that what a detector watches is computed at the end only."""
    return f"train.eval_every: null evaluates at the end only, so detector {detector} finds nothing. Set it to 5%."


def asked_for(detectors: Mapping[str, Detector]) -> dict[str, Detector]:
    """Return the detectors that somebody asked for: all but the default ones where the whole default list is active.

    One of the default list is silent where it has nothing to watch; who writes a list that lacks others of it, or adds
    to it, asks for what it adds.
    """
    default = frozenset(default_detectors())
    left_out = default if default <= detectors.keys() else frozenset()
    return {name: detector for name, detector in detectors.items() if name not in left_out}


def silent_detectors(
    config: Config, detectors: Mapping[str, Detector], *, splits: Collection[str], prior_entropy: float | None
) -> Iterator[str]:
    """Yield why a detector that was asked for can never speak in this run.

    Args:
        config: checked.
        detectors: made, by name.
        splits: of the task.
        prior_entropy: of the task.
    """
    for name, detector in asked_for(detectors).items():
        if "clipped" in detector.needs and config.clip.target.endswith(".Fixed") and config.train.clip_norm is None:
            yield f"detectors.{name}: without train.clip_norm it is silent. Set train.clip_norm=1.0, or leave it out."
        elif "eval" in detector.needs and "val" not in splits:
            yield f"detectors.{name}: the task has no val split, so it is silent. Leave it out."
        elif (
            "eval" in detector.needs and config.train.eval_every is None and not list(_metrics(config.detectors[name]))
        ):
            yield _never_evaluated(name)
        elif prior_entropy is None and "prior_entropy" in filled_in(type(detector)).values():
            yield f"detectors.{name}: the task has no prior entropy, so it is silent. Leave it out."


@functools.cache
def default_detectors() -> tuple[str, ...]:
    """Return the detectors that `detector=[default]` stands for, in their order."""
    page = yaml.safe_load((conf_directory() / "detector" / f"{DEFAULT}.yaml").read_text(encoding="utf-8"))
    return tuple(part.rpartition("/")[2] for part in page["defaults"])
