"""What is wrong with a value, in words: the rule that holds for it, the value, the fix."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from runner.errors import Problem, nearest
from runner.nodes import option_names

_FIXES = {
    "optimizer.lr": "Set optimizer.lr=1e-3, or leave it out for the default of the optimizer",
    "train.duration": "Set train.duration=500 (steps), 20ep (epochs) or 64000ex (examples)",
    "schedule.source": "Set schedule.source=runs/<name>/<run>, a run that has recorded its gradient norms",
    "schedule.cosine_kwargs": "Set schedule.cosine_kwargs=[{decay_steps:100,warmup_steps:10}]",
    "seed": "Set seed=0",
    "source.path": "Set source=<path>, or source.values=[2.5,2.4,2.6] for losses as they are",
    "warmup.beta2": "Set warmup.beta2=0.999, or choose an optimizer with betas",
}
_OF_THE_USER = ("param_groups.rules.", "schedule_of.", "overlays.", "schedule.stages.", "schedule.schedules.")
_MOST_NAMED, _MOST_SPELLED = 5, 20  # losses in a message
_USUAL = {"betas": "[0.9,0.999]", "match": "'*'", "dims": "[0,1]"}  # of rules


@dataclass
class Findings:
    """Problems so far, and the sections that are sound."""

    problems: list[Problem] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, rule: str, fix: str = "") -> None:
        """Add a problem, unless this key has one already."""
        if not any(problem.key == key for problem in self.problems):
            self.problems.append(Problem(key, rule, fix))


def rule(item: Any, annotation: Any) -> str:
    """Return the rule that a pydantic error is about, for a value of this type."""
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if is_for_section(item):
        return "must be a section with a _target_"
    if isinstance(item["input"], Mapping) and item["type"] == "too_short":
        return "must not be empty"
    if item["type"] == "dict_type":
        return "must be a section with keys of its own"
    try:
        return "must be " + _in_words(adapter(annotation).json_schema())
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, KeyError, TypeError):
        text: str = item["msg"]
        return text.replace("Input should be", "must be", 1)


def is_for_section(item: Any) -> bool:
    """Whether a pydantic error is about a value in a place where a section with a target belongs."""
    is_list = item.get("ctx", {}).get("class") == "Sequence"  # pydantic's way to ask for one
    is_node = item["type"] == "model_type" and str(item["ctx"]["class_name"]).endswith("Node")
    return is_node or (item["type"] in ("callable_type", "is_instance_of") and not is_list)


def section_fix(item: Any, key: str) -> str:
    """Return what to do about such a value; one that looks like a dotted path is taken for the target."""
    value = item["input"]
    if key.startswith("schedule_of."):
        return schedule_fix(key, value)
    if item.get("ctx", {}).get("class") == "Tensor":
        return f"Set {key}._target_=torch.tensor {key}.data={spelled(value)}"
    if key == "schedule.scheduler":
        name = value if isinstance(value, str) else "ExponentialLR"
        return f"Set {key}._target_=torch.optim.lr_scheduler.{name} in its place"
    is_path = isinstance(value, str) and "." in value.strip(".")
    name = key.rpartition(".")[2].capitalize()
    return f"Set {key}._target_={value if is_path else f'my_module.{name}'}"


def schedule_fix(key: str, value: Any) -> str:
    """Return what to do about a value where the section of a schedule belongs: the name of one goes with the place."""
    there = key.endswith((".first", ".second"))  # what the pages of sequential and product have by themselves
    close = nearest(str(value), option_names("schedule")) or "cosine"
    return f"Set {'' if there else '+'}schedule@{key}={close}{'' if value is None else ' in its place'}"


def adapter(annotation: Any) -> TypeAdapter[Any]:
    """Return the validator of a type, also of one that pydantic does not know; it is made once."""
    try:
        return _adapter(annotation)
    except TypeError:  # a type with a list inside is no key
        return _adapter.__wrapped__(annotation)


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return TypeAdapter(annotation, config=None if is_model else ConfigDict(arbitrary_types_allowed=True))


def validate(value: Any, annotation: Any) -> None:
    """Check a value of the page against a type, without conversions; a list stands for a tuple too.

    Raises:
        ValidationError: it does not fit.
        PydanticSchemaGenerationError: pydantic does not know the type.
    """
    try:
        adapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        if not isinstance(value, list) or all(item["type"] != "tuple_type" for item in error.errors()):
            raise
        adapter(annotation).validate_python(tuple(value), strict=True)


def _in_words(schema: Mapping[str, Any]) -> str:
    """Say what a JSON schema allows, in a few words."""
    if "$ref" in schema or schema.get("type") == "object":
        return "a section with keys of its own"
    if "anyOf" in schema:
        has_list = any(part.get("type") == "array" for part in schema["anyOf"])  # "or null" behind it is of its items
        parts = sorted(schema["anyOf"], key=lambda part: has_list and part.get("type") != "null")
        return " or ".join(map(_in_words, parts))
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        inner = schema.get("items") or schema.get("prefixItems", [{}])[0]
        least = schema.get("minItems", 0)
        at_least = f" of at least {least}" if least > 1 else " that is not empty" if least else ""
        count = f" of {least}" if least == schema.get("maxItems") else at_least
        return f"a list{count}, each item {_in_words(inner)}" if inner else "a list"
    if schema.get("format") == "duration":
        return "a duration such as 500 (steps), 10% or 2ep"
    if schema.get("format") == "loss":
        return "a number or nan or inf"
    if schema.get("minLength"):
        return "text that is not empty"
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {schema[name]:.12g}" for name, sign in signs.items() if name in schema]
    noun = {"number": "a finite number", "integer": "an integer", "boolean": "true or false", "null": "null"}
    return " ".join([noun.get(schema["type"], "text"), " and ".join(bounds)]).strip()


def fix(key: str, default: Any = inspect.Parameter.empty, *, otherwise: str = "") -> str:
    """Return what to do about the value of a key; `otherwise`, where nothing is known about it."""
    if key in _FIXES or otherwise:
        return _FIXES.get(key, otherwise)
    if default is not inspect.Parameter.empty and default is not None:
        return f"Set {key}={spelled(default)}"
    return f"Leave {key} out for its default"


def fix_of_argument(key: str, value: Any, annotation: Any, default: Any) -> str:
    """Return what to do about an argument of a target; what it says to set fits the annotation.

    A part that is not on a page of ours has no default to leave it to.
    """
    if isinstance(value, float) and 0 < value < 1 and example(annotation) == "10%":  # a share of the run
        return f"Set {key}={100 * value:g}%"
    mended = fix_of_list(key, value, annotation)
    if mended or key in _FIXES:
        return mended or _FIXES[key]
    name, required = key.rpartition(".")[2], default is inspect.Parameter.empty
    if required and key.startswith(_OF_THE_USER) and (text := _USUAL.get(name) or example(annotation)):
        return f"Set {key}={text}"
    return fix(key, default)


def fix_of_list(key: str, value: Any, annotation: Any) -> str:
    """Return what to do about one value where a list belongs, or a list with a wrong item; "" where that is not it.

    An item of a list is no key of its own, so the whole list is set, with its neighbour in the place of a wrong item;
    but nothing takes the place of what was measured.
    """
    if key == "source.values":
        return _fix_of_losses(value, annotation)
    sound = [item for item in value if fits([item], annotation)] if isinstance(value, list) else [value]
    if not sound or not fits(sound[:1], annotation) or not fits(sound, annotation):
        return ""
    kept, words = sound[0], _words(annotation)
    given = value if isinstance(value, list) else sound
    items = [kept := item if fits([item], annotation) else nearest(str(item), words) or kept for item in given]
    return f"Set {key}={spelled(items)}"


def _words(annotation: Any) -> list[str]:
    """Return the words that an item of a list may be, where they are counted."""
    try:
        schema = adapter(annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, KeyError, TypeError):
        return []
    parts = [schema, *schema.get("anyOf", [])]
    return [str(word) for part in parts for word in part.get("items", {}).get("enum", [])]


def _fix_of_losses(value: Any, annotation: Any) -> str:
    items = value if isinstance(value, list) else [value]
    words = [word for item in items for word in (re.split(r"[\s;]+", item) if isinstance(item, str) else [item])]
    if len(words) > len(items) and all(map(_is_number, words)):
        return f"Separate with commas: source.values={spelled(words)}"
    wrong = [place for place, item in enumerate(items) if not fits([item], annotation)]
    if not isinstance(value, list) or not wrong:
        return "Set source.values=[2.5,2.4,2.6], the losses in their order"
    named = ", ".join(f"item {place + 1} ({shown(items[place])})" for place in wrong[:_MOST_NAMED])
    more = f" and {len(wrong) - _MOST_NAMED:,} more" if len(wrong) > _MOST_NAMED else ""
    sound = [item for place, item in enumerate(items) if place not in wrong]
    rest = f" out, as in source.values={spelled(sound)}" if 2 <= len(sound) <= _MOST_SPELLED else " out"
    nan = ", or write nan where it was no number" if None in items else ""
    return f"Correct {named}{more}, or leave {'them' if len(wrong) > 1 else 'it'}{rest}{nan}"


def _is_number(word: Any) -> bool:
    try:
        return float(word) is not None
    except (TypeError, ValueError):
        return False


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value of the page is of a type, as far as that is known."""
    try:
        validate(value, annotation)
    except (ValidationError, PydanticSchemaGenerationError):
        return False
    return True


def example(annotation: Any) -> str:
    """Return a value of a type as it is written on the command line, "" where none comes to mind."""
    try:
        return _example(adapter(annotation).json_schema())
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, KeyError, TypeError):
        return ""


def _example(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return next((text for part in schema["anyOf"] if (text := _example(part))), "")
    if "enum" in schema or "const" in schema:
        return str(schema.get("enum", [schema.get("const")])[0])
    if schema["type"] == "array":
        inner = _example(schema.get("items") or schema.get("prefixItems", [{"type": "null"}])[0])
        return f"[{','.join([inner] * max(schema.get('minItems', 1), 1))}]" if inner else ""
    if schema.get("format") == "duration":
        return "10%"
    if schema["type"] in ("number", "integer"):
        low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        between = (above or 0) + 1 if most is None else most if "maximum" in schema else ((above or 0) + most) / 2
        return f"{low if low is not None else between:g}"
    return {"boolean": "false"}.get(schema["type"], "")


def unresolved(key: str, text: str) -> Problem:
    """Return the problem of a value that takes another one by `${...}`, which OmegaConf describes in a text."""
    missing = re.search(r"'(?P<source>[^']+)' not found", text)
    if missing is None:
        return Problem(key, f"must resolve, but {text}", "Mend the ${...}")
    rule = f"must have a value, but takes it from {missing['source']}, which is not there"
    return Problem(key, rule, fix(key, otherwise=f"Set {key}"))


def spelled(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelled, value)) + "]"
    return shown(value) if isinstance(value, bool) or value is None else f"{value}"


def shown(value: Any) -> str:
    """Return a value as an error message shows it."""
    if isinstance(value, Mapping):
        return "a section" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def wrong_page(key: str, path: Path) -> Problem | None:
    """Return the problem of a path to which no page can be written for its name; None where it may."""
    if path.name and path.suffix in ("", ".yaml"):
        return None
    fix = path.with_suffix(".yaml") if path.name else "found.yaml"
    return Problem(key, f"must be the path of a YAML page, got {shown(str(path))}", f"Set {key}={fix}")


def not_mergeable(key: str, value: str, cause: str) -> Problem:
    """Return the problem of an override that does not fit the section that it is for."""
    if key.endswith(".space"):
        example = f"'{key}={{optimizer.lr:\"interval(1e-5,1)\"}}'"
        return Problem(key, f"must have texts for values, got {value}", f"Put each in quotes: {example}")
    text = cause.partition("\n")[0]
    return Problem(key, f"must be of the type of its default, got {value} ({text})", "Leave it out")
