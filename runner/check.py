"""check(tree) -> Config: the whole configuration is validated before anything is built, all problems at once.

It inspects types and signatures and never calls what a `_target_` names, schedules excepted (`check_schedules`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from runner.checks.facts import FindFacts, check_facts, check_init_from
from runner.checks.groups import check_group_rules
from runner.checks.nodes import add_invalid, check_node, declared
from runner.checks.optimizer import check_optimizer
from runner.checks.range_test import check_range_test
from runner.checks.remedies import check_remedies
from runner.checks.scaling import check_scaling
from runner.checks.schedules import check_schedule_keys, check_schedules
from runner.checks.sharpness import check_sharpness
from runner.checks.stand_ins import with_stand_ins
from runner.checks.sweep import check_grid
from runner.checks.watch import check_watched
from runner.config import Config, ModeNode, Train
from runner.config_source import Source
from runner.errors import ConfigError, Problem, unknown_key
from runner.needs import is_told, nodes_to_bind
from runner.nodes import leaves
from runner.tracking.directory import CHECKPOINTS, CONFIG, RECORDS, RESULT, SWEEP
from runner.tracking.jsonl import find_result
from runner.wording import Findings, fix, fix_of_list, shown


def check(tree: Mapping[str, Any], *, find_facts: FindFacts, problems: tuple[Problem, ...] = ()) -> Config:
    """Return the typed configuration.

    Args:
        tree: plain YAML, interpolations resolved.
        find_facts: task, training section, resume and seed -> what the data and the machine can tell; may raise
            RunnerError. The only thing called here that builds anything (the task); only for a mode that needs one.
        problems: problems found before, to be reported together with the new ones.
    Raises:
        ConfigError: with every problem found.
    """
    found = Findings(list(problems))
    _check_sections(tree, found)
    for key, node in list(nodes_to_bind(found.sections)):
        check_node(key, node, found)
    _check_finite(tree, found)
    _check_paths(found)
    check_init_from(found)
    if not is_told(found.sections):
        check_group_rules(found)
        check_optimizer(found)
        check_range_test(found)
    check_scaling(found)
    check_schedule_keys(found)
    check_grid(found)
    if {"mode", "task", "train", "resume"} <= found.sections.keys():
        facts = check_facts(found, find_facts)
        if facts is not None and facts.clock is not None:
            check_schedules(found, facts.clock)
            if not is_told(found.sections):
                check_remedies(found, facts.clock)
        if facts is not None and not is_told(found.sections):
            check_sharpness(found, facts.clock)
            check_watched(found, splits=facts.examples, goals=facts.goals)
    if found.problems:
        raise ConfigError(found.problems)
    return Config.model_validate(found.sections)


def _check_sections(tree: Mapping[str, Any], found: Findings) -> None:
    known = Config.model_fields
    for key in tree.keys() - known.keys():
        if key in Train.model_fields:
            found.add(key, f"unknown key, did you mean train.{key}")
        else:
            found.problems.append(unknown_key(key, list(known)))
    for key, info in known.items():
        if key not in tree:
            found.add(key, "must be there, got nothing", "Do not delete it")
            continue
        annotated = declared(info)
        try:
            found.sections[key] = TypeAdapter(annotated).validate_python(tree[key])
        except ValidationError as error:
            for item in error.errors():
                add_invalid(found, item, (key, *item["loc"]), annotated, tree[key])
            with contextlib.suppress(ValidationError):
                repaired = with_stand_ins(key, tree[key], [item["loc"] for item in error.errors()])
                found.sections[key] = TypeAdapter(annotated).validate_python(repaired)


def _check_finite(tree: Any, found: Findings, prefix: str = "") -> None:
    """No number anywhere may be nan or infinite, recorded losses excepted: torch takes such values without a word."""
    if prefix == "source.values":
        return
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _check_finite(value, found, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        wrong = [value for _, value in leaves(tree) if not _is_finite(value)]
        if wrong:
            given = f"{wrong[0]} inside" if any(isinstance(item, Mapping) for item in tree) else shown(tree)
            mend = fix_of_list(prefix, tree, Sequence[FiniteFloat]) or fix(prefix)
            found.add(prefix, f"must hold finite numbers, got {given}", mend)
    elif not _is_finite(tree):
        found.add(prefix, f"must be a finite number, got {tree}", fix(prefix))


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _check_paths(found: Findings) -> None:
    """Whether the directories that are read are there, with what is read of them."""
    resume, mode, source = (found.sections.get(name) for name in ("resume", "mode", "source"))
    if resume is not None and resume.source is not None:
        directory = Path(resume.source)
        wanted = [CONFIG, RESULT, f"{CHECKPOINTS}/{resume.checkpoint}.pt"]
        missing = [name for name in wanted if not (directory / name).is_file()]
        given = f"got {resume.source!r}"
        if not resume.source or not directory.is_dir():
            found.add("resume.from", f"must be a run directory, {given}", "Give a path under runs/")
        elif missing:
            rule = f"must be a run directory with {', '.join(wanted)}, {given} without {', '.join(missing)}"
            found.add("resume.from", rule, "Give a run that reached its first checkpoint, or start afresh")
        elif find_result(directory) is None:
            found.add("resume.from", f"must be a run directory with a readable {RESULT}, {given}", f"Mend its {RESULT}")
    if resume is not None and resume.sweep is not None and not (mode is not None and mode.makes_sweep):
        rule = f"must be given on the command line, got {resume.sweep!r}"
        found.add("resume.sweep", rule, "Set resume.sweep=runs/sweeps/<sweep> there")
    if mode is not None and source is not None:
        _check_source(mode, source, found)


def _check_source(mode: ModeNode, source: Source, found: Findings) -> None:
    """Whether what the mode reads is named, and nothing else."""
    path, values = source.path, source.values
    read = [CONFIG, RECORDS] if mode.rebuilds else [RECORDS]
    if mode.reads_curve:
        is_sound = not any(problem.key.startswith("source") for problem in found.problems)
        if is_sound and bool(path) == (values is not None):
            rule = "must name a curve" if values is None else "must be left out where source.values are given"
            fix = "Set source=<file, run directory, MLflow run, or - for standard input> or source.values=[2.5,2.4,2.6]"
            found.add("source", f"{rule}, got {shown(path)}", fix if values is None else "Leave one of them out")
        return
    if mode.reads == "sweep":
        if not (path and (Path(path) / SWEEP).is_file()):
            rule = f"must be the directory of a sweep with {SWEEP}, got {shown(path)}"
            found.add("source", rule, "Set source=runs/sweeps/<sweep>")
    elif mode.reads and not (path and all((Path(path) / name).is_file() for name in read)):
        rule = f"must be a run directory with {' and '.join(read)}, got {shown(path)}"
        found.add("source", rule, "Set source=runs/<name>/<run>")
    elif not mode.reads and path is not None:
        rule = f"must be null in a mode that reads none, got {path!r}"
        found.add("source", rule, "Set mode=diagnose, mode=report, mode=upload, mode=eval or resume.from")
    if values is not None:
        found.add("source.values", f"must be null in this mode, got {shown(values)}", "Set mode=diagnose")
    for name, column in source.columns:
        if column is not None:
            found.add(f"source.columns.{name}", f"must be null in this mode, got {column!r}", "Set mode=diagnose")
