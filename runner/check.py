"""check(tree) -> Config: the whole configuration is validated before anything is built, all problems at once.

It inspects types and signatures and never calls what a `_target_` names, schedules excepted (`check_schedules`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, FiniteFloat, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from runner.check_facts import FindFacts, check_facts, check_init_from
from runner.check_groups import check_group_rules
from runner.check_optimizer import check_optimizer, wrong_optimizer
from runner.check_scaling import check_scaling
from runner.check_schedules import check_schedule_keys, check_schedules
from runner.check_watch import check_watched
from runner.config import Config, OptimizerNode, Train
from runner.errors import ConfigError, Problem, unknown_key
from runner.needs import is_told, nodes_to_bind
from runner.nodes import Node, is_node, leaves
from runner.signatures import (
    as_written,
    filled_in,
    hint_at,
    hints_of,
    is_bound_later,
    locate,
    makes_schedule,
    named_by_runner,
    parameters_of,
    spread,
)
from runner.stand_ins import with_stand_ins
from runner.tracking.directory import CHECKPOINTS, CONFIG, RECORDS, RESULT
from runner.tracking.jsonl import find_result
from runner.wording import (
    Findings,
    fix,
    fix_of_argument,
    fix_of_list,
    is_for_section,
    rule,
    schedule_fix,
    section_fix,
    shown,
    validate,
)


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
    _check_finite(tree, found)
    for key, node in list(nodes_to_bind(found.sections)):
        _check_node(key, node, found)
    _check_paths(found)
    check_init_from(found)
    if not is_told(found.sections):
        check_group_rules(found)
        check_optimizer(found)
    check_scaling(found)
    check_schedule_keys(found)
    if {"mode", "task", "train", "resume"} <= found.sections.keys():
        facts = check_facts(found, find_facts)
        if facts is not None and facts.clock is not None:
            check_schedules(found, facts.clock)
        if facts is not None and not is_told(found.sections):
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
        annotated = _declared(info)
        try:
            found.sections[key] = TypeAdapter(annotated).validate_python(tree[key])
        except ValidationError as error:
            for item in error.errors():
                _add_invalid(found, item, (key, *item["loc"]), annotated, tree[key])
            with contextlib.suppress(ValidationError):
                repaired = with_stand_ins(key, tree[key], [item["loc"] for item in error.errors()])
                found.sections[key] = TypeAdapter(annotated).validate_python(repaired)


def _add_invalid(found: Findings, item: Any, path: tuple[int | str, ...], annotation: Any, whole: Any = None) -> None:
    """Turn one pydantic error into a problem, under the dotted key of the field it belongs to.

    Args:
        found: takes the problem.
        item: the error.
        path: where it is.
        annotation: of the section that is first on the path.
        whole: what is written for that section.
    """
    names = [str(name) for name in path[1:]]
    value = whole
    for index, name in enumerate(names):
        model = _model(annotation)
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif model is not None:
            fields = {info.alias or key: info for key, info in model.model_fields.items()}
            if item["type"] == "extra_forbidden" and name not in fields:
                found.problems.append(unknown_key(".".join(map(str, path)), list(fields)))
                return
            annotation = _declared(fields[name]) if name in fields else Any
        else:
            names = names[:index]  # an item of a list, or a member of a union
            break
        value = value.get(name) if isinstance(value, Mapping) else None
    key, given = ".".join([str(path[0]), *names]), value if isinstance(value, list) else item["input"]
    if item["type"] == "missing":
        is_new = key.endswith("._target_") and key.startswith(("schedule_of.", "overlays."))
        mend = section_fix({**item, "input": None}, key.removesuffix("._target_")) if is_new else "Do not delete it"
        found.add(key, "must be there, got nothing", mend)
    elif is_for_section(item):
        found.add(key, f"{rule(item, annotation)}, got {shown(item['input'])}", section_fix(item, key))
    else:
        mend = fix_of_list(key, given, annotation) or fix(key)
        found.add(key, f"{rule(item, annotation)}, got {shown(given)}", mend)


def _declared(info: FieldInfo) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, alone or as the only model of a union."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _check_finite(tree: Any, found: Findings, prefix: str = "") -> None:
    """No number anywhere may be nan or infinite: torch takes such values without a word."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _check_finite(value, found, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        wrong = [value for _, value in leaves(tree) if not _is_finite(value)]
        if any(wrong):
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
    if resume is not None and resume.sweep is not None:
        rule = f"must be given on the command line, got {resume.sweep!r}"
        found.add("resume.sweep", rule, "Set resume.sweep=runs/sweeps/<sweep> there")
    read = [CONFIG, RECORDS] if mode is not None and mode.rebuilds else [RECORDS]
    if mode is not None and mode.reads and not (source and all((Path(source) / name).is_file() for name in read)):
        rule = f"must be a run directory with {' and '.join(read)}, got {shown(source)}"
        found.add("source", rule, "Set source=runs/<name>/<run>")
    elif mode is not None and not mode.reads and source is not None:
        found.add(
            "source",
            f"must be null in a mode that reads none, got {source!r}",
            "Set mode=upload, mode=eval or resume.from",
        )


def _check_node(key: str, node: Node, found: Findings, *, hint: Any = None) -> None:
    """Bind the arguments of a node to the signature of its target, names and types, and those of its parts."""
    try:
        target = locate(node.target)
        parameters = parameters_of(target)
    except (LookupError, TypeError) as error:
        rule, close, fix = (*error.args, "", "")[:3]
        fix = f"Set {key}._target_={close}" if close else fix or "Give the dotted path of a class or function"
        found.add(f"{key}._target_", f"{rule}, got {node.target!r}", fix)
        return
    wrong = wrong_optimizer(target) if isinstance(node, OptimizerNode) else ""
    if wrong:
        found.add(f"{key}._target_", f"{wrong}, got {node.target!r}", "Choose another optimizer")
        return
    hints = hints_of(target)
    known = _check_names(key, node, target, found)
    for name, value in node.arguments.items():
        for path, item, item_hint in spread(name, value, hints[name]) if name in known and name in hints else ():
            if any(f"{part}.".startswith(f"{path}.") for part in node.parts):
                _check_beside_parts(key, path, item, hints, found)
            else:
                default = parameters[name].default if path == name else inspect.Parameter.empty
                _check_argument(f"{key}.{path}", item, item_hint, default, found)
    for path, written in node.parts.items():
        part_key, part_hint = f"{key}.{path}", hint_at(hints, path)
        try:
            _check_node(part_key, Node.model_validate(written), found, hint=part_hint)
        except ValidationError as error:
            for item in error.errors():
                _add_invalid(found, item, (part_key, *item["loc"]), Node)
    if is_bound_later(target, hint, partial=node.partial and hint is not None):
        return
    given = {*node.arguments, *known[: len(node.positional)]}
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            later = name == "optimizer" and hint is not None
            fix_of_missing = f"Set {key}._partial_=true, it is given later" if later else f"Set {key}.{name}=..."
            found.add(f"{key}.{name}", "must be given, got nothing", fix_of_missing)


def _check_beside_parts(key: str, path: str, value: Any, hints: Mapping[str, Any], found: Findings) -> None:
    """Check what stands beside parts that name a target, in a section or a list of them."""
    for name, item in value.items() if isinstance(value, Mapping) and not is_node(value) else ():
        below = f"{path}.{name}"
        if not is_node(item):
            _check_argument(f"{key}.{below}", item, hint_at(hints, below), inspect.Parameter.empty, found)


def _check_names(key: str, node: Node, target: Any, found: Findings) -> list[str]:
    """Check that the target takes what the node gives, by name; return the names that it takes from a YAML."""
    parameters = parameters_of(target)
    provided = named_by_runner(key, target) | filled_in(target).keys()
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [name for name, p in parameters.items() if p.kind in named and name not in provided]
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.arguments.items():
        if name in provided:
            found.add(f"{key}.{name}", f"must not be set, the runner fills it in, got {shown(value)}", "Remove it")
        elif name not in known and not accepts_any:
            reserved = [n for n in type(node).model_fields if n not in ("target", "partial", "positional")]
            found.problems.append(unknown_key(f"{key}.{name}", sorted({*known, *reserved})))
    return known


def _check_argument(key: str, value: Any, hint: Any, default: Any, found: Findings) -> None:
    hint = as_written(hint)
    if any(problem.key.startswith(f"{key}.") for problem in found.problems):  # an item of it is not finite
        return
    try:
        validate(value, hint)
    except PydanticSchemaGenerationError:
        return
    except ValidationError as error:
        item = error.errors()[0]
        if is_for_section(item):
            key = ".".join([key, *map(str, item["loc"])])
            wants = hint_at({"": hint}, ".".join(["", *map(str, item["loc"])]))
            mend = schedule_fix(key, item["input"]) if makes_schedule(wants) else section_fix(item, key)
            found.add(key, f"{rule(item, hint)}, got {shown(item['input'])}", mend)
            return
        broken = rule(item, hint)
        if isinstance(value, list) and item["type"] == "value_error" and item["loc"]:
            broken = f"must be a list, each item {broken.removeprefix('must be ')}"
        of_parts = isinstance(value, Mapping) and not value and makes_schedule(hint_at({"": hint}, ".any"))
        mend = f"Leave one in it, or set +schedule@{key}.another=cosine" if of_parts else ""
        found.add(key, f"{broken}, got {shown(value)}", mend or fix_of_argument(key, value, hint, default))
