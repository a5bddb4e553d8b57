"""check(tree) -> Config: the whole configuration is validated before anything is built, all problems at once.

It inspects types and signatures and never calls what a `_target_` names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from runner.check_facts import FindFacts, check_facts
from runner.config import Config, Node, OptimizerNode, nodes
from runner.errors import ConfigError, Problem, unknown_key
from runner.signatures import as_written, hints_of, locate, needs_closure
from runner.wording import Findings, adapter, fix, rule, shown

PROVIDED: Mapping[str, frozenset[str]] = {
    "mode": frozenset({"config", "invocation"}),
    "task": frozenset({"batch_size", "seed"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"total_steps", "warmup_steps"}),
}
"""section -> arguments of its target that the runner fills in"""


def check(tree: Mapping[str, Any], *, find_facts: FindFacts, problems: tuple[Problem, ...] = ()) -> Config:
    """Return the typed configuration.

    Args:
        tree: plain YAML, interpolations resolved.
        find_facts: task, training section and seed -> what the data and the machine can tell; may raise
            ConfigError. Called only for a mode that trains, and when its arguments are sound.
        problems: problems found before, to be reported together with the new ones.
    Raises:
        ConfigError: with every problem found.
    """
    found = Findings(list(problems))
    _check_sections(tree, found)
    _check_finite(tree, found)
    for key, node in list(nodes(found.sections)):
        _check_node(key, node, found)
    trains = "mode" in found.sections and found.sections["mode"].trains
    if trains and not any(problem.key.startswith(("task", "train", "seed")) for problem in found.problems):
        check_facts(found, find_facts)
    if found.problems:
        raise ConfigError(found.problems)
    return Config.model_validate(found.sections)


def warnings(config: Config) -> list[str]:
    """Return what is allowed but unusual, a sentence each."""
    return [text for text in (_unusual_lr(config), _deaf_optimizer(config)) if text]


def _unusual_lr(config: Config) -> str:
    """Say that a learning rate is more than 10x outside its typical range."""
    optimizer, typical = config.optimizer, config.optimizer.typical
    low, high = getattr(typical, config.task.regime) if typical is not None else (optimizer.lr, optimizer.lr)
    if typical is None or low / 10 <= optimizer.lr <= high * 10:
        return ""
    times = optimizer.lr / high if optimizer.lr > high else low / optimizer.lr
    side = "above" if optimizer.lr > high else "below"
    return (
        f"optimizer.lr: {optimizer.lr:g} is {times:.3g} times {side} the typical range {low:g} to {high:g} of "
        f"{optimizer.target.rpartition('.')[2]} {config.task.regime.replace('_', ' ')} "
        f"({typical.source}). The run goes on."
    )


def _deaf_optimizer(config: Config) -> str:
    """Say that torch's Rprop takes its learning rate from the first update and never looks again."""
    if config.optimizer.target != "torch.optim.Rprop" or config.warmup.target.endswith(".none"):
        return ""
    return (
        "optimizer: Rprop reads the learning rate at its first update only, so warmup sets its first step size and "
        "schedule has no effect. Set warmup=none schedule=constant."
    )


def _check_sections(tree: Mapping[str, Any], found: Findings) -> None:
    known = Config.model_fields
    for key in tree.keys() - known.keys():
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
                _add_invalid(found, item, (key, *item["loc"]), annotated)


def _add_invalid(found: Findings, item: Any, path: tuple[int | str, ...], annotation: Any) -> None:
    """Turn one pydantic error into a problem, under the dotted key of the field it belongs to."""
    names = [str(name) for name in path[1:]]
    for index, name in enumerate(names):
        model = _model(annotation)
        if model is not None:
            fields = {info.alias or key: info for key, info in model.model_fields.items()}
            if item["type"] == "extra_forbidden" and name not in fields:
                found.problems.append(unknown_key(".".join(map(str, path)), list(fields)))
                return
            annotation = _declared(fields[name]) if name in fields else Any
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            names = names[:index]  # an item of a list, or a member of a union
            break
    key = ".".join([str(path[0]), *names])
    if item["type"] == "missing":
        found.add(key, "must be there, got nothing", "Do not delete it")
    else:
        found.add(key, f"{rule(item, annotation)}, got {shown(item['input'])}", fix(key))


def _declared(info: FieldInfo) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, alone or as the only model of a union."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _check_finite(tree: Any, found: Findings, prefix: str = "") -> None:
    """No number anywhere may be nan or infinite: torch takes such values without a word."""
    if isinstance(tree, float) and not math.isfinite(tree):
        found.add(prefix, f"must be a finite number, got {tree}", fix(prefix))
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        _check_finite(value, found, f"{prefix}.{key}" if prefix else str(key))


def _check_node(key: str, node: Node, found: Findings) -> None:
    """Bind the arguments of a node to the signature of its target, names and types."""
    try:
        target = locate(node.target)
        parameters = inspect.signature(target).parameters
    except (LookupError, TypeError, ValueError) as error:
        rule, close = (*error.args, "")[:2]
        fix = f"Set {key}._target_={close}" if close else "Give the dotted path of a class or function"
        found.add(f"{key}._target_", f"{rule}, got {node.target!r}", fix)
        return
    if isinstance(node, OptimizerNode) and needs_closure(target):
        found.add(f"{key}._target_", f"must step without a closure, got {node.target!r}", "Choose another optimizer")
        return
    provided = PROVIDED.get(key.split(".")[0], frozenset())
    given = {**node.arguments, **({"lr": node.lr} if isinstance(node, OptimizerNode) else {})}
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [
        n for n, p in parameters.items() if n not in provided and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    hints = hints_of(target)
    for name, value in given.items():
        if name in provided:
            found.add(f"{key}.{name}", f"must not be set, the runner fills it in, got {shown(value)}", "Remove it")
        elif name not in known and not accepts_any:
            reserved = [n for n in type(node).model_fields if n not in ("target", "partial")]
            found.problems.append(unknown_key(f"{key}.{name}", sorted({*known, *reserved})))
        elif name in hints:
            _check_argument(f"{key}.{name}", value, hints[name], parameters[name].default, found)
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            found.add(f"{key}.{name}", "must be given, got nothing", f"Set {key}.{name}=...")


def _check_argument(key: str, value: Any, hint: Any, default: Any, found: Findings) -> None:
    hint = as_written(hint)
    try:
        adapter(hint).validate_python(value)
    except PydanticSchemaGenerationError:
        return
    except ValidationError as error:
        found.add(key, f"{rule(error.errors()[0], hint)}, got {shown(value)}", fix(key, default))
