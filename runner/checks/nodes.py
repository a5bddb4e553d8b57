"""The arguments of every part bound to the signature of what it names: names, types, and parts inside parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, PydanticSchemaGenerationError, ValidationError
from pydantic.fields import FieldInfo

from runner.checks.optimizer import wrong_optimizer
from runner.config import OptimizerNode
from runner.errors import unknown_key
from runner.nodes import Node, is_node, option_names
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
from runner.wording import (
    Findings,
    example,
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


def check_node(key: str, node: Node, found: Findings, *, hint: Any = None) -> None:
    """Bind the arguments of a node to the signature of its target, names and types, and those of its parts."""
    try:
        target = locate(node.target)
        parameters = parameters_of(target)
    except (LookupError, TypeError) as error:
        broken, close, mend = (*error.args, "", "")[:3]
        mend = f"Set {key}._target_={close}" if close else mend or "Give the dotted path of a class or function"
        found.add(f"{key}._target_", f"{broken}, got {node.target!r}", mend)
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
            check_node(part_key, Node.model_validate(written), found, hint=part_hint)
        except ValidationError as error:
            for item in error.errors():
                add_invalid(found, item, (part_key, *item["loc"]), Node)
    if is_bound_later(target, hint, partial=node.partial and hint is not None):
        return
    _check_given(key, node, target, known, found, has_hint=hint is not None)


def _check_given(key: str, node: Node, target: Any, known: list[str], found: Findings, *, has_hint: bool) -> None:
    """Check that the node gives what the target cannot do without."""
    parameters, hints = parameters_of(target), hints_of(target)
    given = {*node.arguments, *known[: len(node.positional)]}
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            mend = _to_give(f"{key}.{name}", hints.get(name, Any))
            if name == "optimizer" and has_hint:
                mend = f"Set {key}._partial_=true, it is given later"
            found.add(f"{key}.{name}", "must be given, got nothing", mend)


def _to_give(key: str, hint: Any) -> str:
    """Return what to do about an argument that is not given."""
    text = example(as_written(hint))
    return f"Set {key}={text}" if text else f"Give {key} a value"


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
        broken, place = rule(item, hint), item["loc"]
        if isinstance(value, list) and len(place) > 1:  # a key of a section in a list
            said = {"missing": "must be given", "unexpected_keyword_argument": "is unknown"}
            what = said.get(item["type"], str(item["msg"]).replace("Input should be", "must be"))
            broken = f"must be a list of sections, but {place[1]} of item {place[0]} {what}"
        if isinstance(value, list) and item["type"] == "value_error" and item["loc"]:
            broken = f"must be a list, each item {broken.removeprefix('must be ')}"
        of_parts = isinstance(value, Mapping) and not value and makes_schedule(hint_at({"": hint}, ".any"))
        mend = f"Leave one in it, or set +schedule@{key}.another=cosine" if of_parts else ""
        found.add(key, f"{broken}, got {shown(value)}", mend or fix_of_argument(key, value, hint, default))


def add_invalid(found: Findings, item: Any, path: tuple[int | str, ...], annotation: Any, whole: Any = None) -> None:
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
            annotation = declared(fields[name]) if name in fields else Any
        else:
            names = names[:index]  # an item of a list, or a member of a union
            break
        value = value.get(name) if isinstance(value, Mapping) else None
    key, given = ".".join([str(path[0]), *names]), value if isinstance(value, list) else item["input"]
    if item["type"] == "missing":
        is_new = key.endswith("._target_") and key.startswith(("schedule_of.", "overlays."))
        mend = section_fix({**item, "input": None}, key.removesuffix("._target_")) if is_new else _to_have(key)
        found.add(key, "must be there, got nothing", mend)
    elif is_for_section(item):
        found.add(key, f"{rule(item, annotation)}, got {shown(item['input'])}", section_fix(item, key))
    else:
        mend = fix_of_list(key, given, annotation) or fix(key)
        found.add(key, f"{rule(item, annotation)}, got {shown(given)}", mend)


def _to_have(key: str) -> str:
    """Return what to do about a key that is not there; settings of an option that is not chosen leave a stump."""
    section, _, name = key.removesuffix("._target_").partition(".")
    group = {"detectors": "detector", "remedies": "remedy"}.get(section)
    if group is None or name not in option_names(group):
        return "Do not delete it"
    return f"Leave {section}.{name} out, or choose {group}=[{name}]"


def declared(info: FieldInfo) -> Any:
    """Return the annotation of a field with its bounds."""
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, alone or as the only model of a union."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
