"""What a page and a result tell about a run, in the words of the diagnosis."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from runner.diagnosis.curve import Family, Known
from runner.durations import Clock, to_steps
from runner.records import RunResult

_ADAPTIVE = (
    "adam", "nadam", "radam", "adan", "adagrad", "adadelta", "rmsprop", "ademamix", "adopt", "adafactor", "prodigy",
    "soap",
)  # fmt: skip
_GROUPS = ("optimizer", "schedule", "warmup", "scaling", "param_groups", "task")
TELLING = (
    *_GROUPS, "optimizer.lr", "optimizer.momentum", "warmup.duration", "train.duration", "train.batch_size",
    "train.clip_norm", "train.precision", "train.early_stop.patience",
)  # fmt: skip
"""what can be said of a run that is not ours: the keys that a diagnosis understands"""
_ESTIMATED = "optimizer.d_coef"  # of optimizers that estimate their learning rate


def known_of_page(page: Mapping[str, Any], result: RunResult | None, *, directory: str = "") -> Known:
    """Return what is known of a run of ours; what an older page lacks is not known.

    Args:
        page: its configuration, as plain YAML.
        result: its result, where there is one.
        directory: its run directory, from which an unfinished run can go on.
    """
    train, schedule = _section(page, "train"), _section(page, "schedule")
    optimizer = _section(page, "optimizer")
    estimates = "d_coef" in optimizer
    total = result.planned_steps or None if result is not None else None
    clock = Clock(train.get("batch_size") or 1, _examples(result), total)
    choices = dict(result.choices) if result is not None else {}
    prior = result.dataset.get("prior_entropy") if result is not None else None
    clip, stop = train.get("clip_norm"), _section(train, "early_stop")
    unfinished = result is not None and (result.status in ("interrupted", "pruned") or result.is_out_of_time)
    return Known(
        family=family_of(optimizer),
        lr=_number(optimizer.get("d_coef" if estimates else "lr")),
        lr_key=_ESTIMATED if estimates else "optimizer.lr",
        warmup_steps=_warmup(_section(page, "warmup"), clock),
        total_steps=total if total is not None else _steps(train.get("duration"), clock),
        clip_norm=_number(clip) if clip is not None else (math.inf if "clip_norm" in train else None),
        prior_entropy=_number(prior),
        precision=train.get("precision"),
        batch_size=train.get("batch_size"),
        schedule=choices.get("schedule") or str(schedule.get("_target_", "")).rpartition(".")[2] or None,
        was_cut_short=(unfinished or result.status == "running") if result is not None else None,
        duration=train.get("duration"),
        patience=stop.get("patience") or (0 if "patience" in stop else None),
        go_on=(f"resume.from={directory}",) if directory and unfinished else (),
        resumed=bool(_section(page, "resume").get("from")),
        options=choices,
    )


def known_of_overrides(
    page: Mapping[str, Any], typed: Collection[str], *, choices: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields of `Known` that a command line tells about a run that is not ours.

    Args:
        page: what the command line composes, as plain YAML; what it has by itself tells nothing.
        typed: the keys that were typed, without their values.
        choices: config group -> option.
    """
    train, optimizer = _section(page, "train"), _section(page, "optimizer")
    found: dict[str, Any] = {}
    clock = Clock(train.get("batch_size") or 1)
    if "train.duration" in typed:
        found |= {"duration": train["duration"], "total_steps": _steps(train["duration"], clock)}
        clock = clock._replace(total_steps=found["total_steps"])
    if "optimizer" in typed or any(key in typed for key in ("optimizer._target_", "optimizer.momentum")):
        found["family"] = family_of(optimizer)
    if "optimizer.lr" in typed:
        found["lr"] = _number(optimizer.get("lr"))
    if set(typed) & {"warmup", "warmup.duration"}:
        warmup = _warmup(_section(page, "warmup"), clock)
        found["warmup_steps"] = warmup if warmup == 0 or "warmup.duration" in typed else None
    if "train.clip_norm" in typed:
        clip = train["clip_norm"]
        found["clip_norm"] = math.inf if clip is None else _number(clip)
    for name in ("precision", "batch_size"):
        if f"train.{name}" in typed:
            found[name] = train[name]
    if "schedule" in typed:
        found["schedule"] = choices.get("schedule")
    if "train.early_stop.patience" in typed:
        found["patience"] = _section(train, "early_stop").get("patience") or 0
    found["options"] = {group: option for group, option in choices.items() if group in typed and group in _GROUPS}
    return {name: value for name, value in found.items() if value is not None}


def family_of(optimizer: Mapping[str, Any]) -> Family | None:
    """Return what kind of optimizer a section names; None where that is not known."""
    name = str(optimizer.get("opt") or str(optimizer.get("_target_", "")).rpartition(".")[2]).lower()
    if "sgd" in name and "kron" not in name:
        return "momentum" if optimizer.get("momentum") or "nesterov" in name else "sgd"
    return "adaptive" if any(word in name for word in _ADAPTIVE) else None


def _warmup(section: Mapping[str, Any], clock: Clock) -> int | None:
    if "duration" in section:
        return _steps(section["duration"], clock)
    return 0 if str(section.get("_target_", "")).endswith(".none") else None


def _steps(duration: Any, clock: Clock) -> int | None:
    try:
        return to_steps(duration, clock)
    except ValueError:  # in epochs or a share, of which the length is not known
        return None


def _examples(result: RunResult | None) -> int | None:
    examples = result.dataset.get("examples") if result is not None else None
    return examples.get("train") if isinstance(examples, Mapping) else None


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
