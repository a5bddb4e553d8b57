"""check(tree) -> Config: the whole configuration is validated before anything is built, all problems at once.

It inspects types and signatures and never calls what a `_target_` names.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from runner.check_facts import FindFacts, check_facts, check_init_from
from runner.config import Config, OptimizerNode, Train
from runner.errors import ConfigError, Problem, unknown_key
from runner.needs import is_told, nodes_to_bind
from runner.nodes import Node
from runner.signatures import (
    PROVIDED,
    as_written,
    filled_in,
    has_fused,
    hint_at,
    hints_of,
    is_bound_later,
    locate,
    needs_closure,
    parameters_of,
)
from runner.stand_ins import with_stand_ins
from runner.tracking.directory import CHECKPOINTS, CONFIG, RECORDS, RESULT
from runner.tracking.jsonl import find_result
from runner.wording import Findings, adapter, fix, fix_of_list, is_for_section, rule, section_fix, shown


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
        _check_watch_every(found)
    if {"mode", "task", "train", "resume"} <= found.sections.keys():
        check_facts(found, find_facts)
    if found.problems:
        raise ConfigError(found.problems)
    return Config.model_validate(found.sections)


def warnings(config: Config) -> list[str]:
    """Return what is allowed but unusual, a sentence each."""
    rules = (_unusual_lr, _deaf_optimizer, _double_warmup, _wrong_regime)
    return [text for rule in rules if (text := rule(config))]


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
    is_constant = config.schedule.target.endswith(".constant") and config.warmup.target.endswith(".none")
    if config.optimizer.target != "torch.optim.Rprop" or is_constant:
        return ""
    return (
        "optimizer: Rprop reads the learning rate at its first update only, so a warmup sets its first step size and "
        "a schedule has no effect. Set warmup=none schedule=constant."
    )


def _double_warmup(config: Config) -> str:
    """Say that one-cycle rises by itself."""
    if not config.schedule.target.endswith(".one_cycle") or config.warmup.target.endswith(".none"):
        return ""
    return "warmup: one_cycle rises by itself, and the warmup is multiplied with it. Set warmup=none."


def _wrong_regime(config: Config) -> str:
    """Say that loaded weights are trained with the learning rates of fresh ones."""
    if config.task.init_from is None or config.task.regime == "fine_tune":
        return ""
    return (
        "task.regime: weights come from task.init_from, but the typical learning rates are those of training from "
        "scratch. Set task.regime=fine_tune for the lower ones of fine-tuning."
    )


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
                _add_invalid(found, item, (key, *item["loc"]), annotated)
            with contextlib.suppress(ValidationError):
                repaired = with_stand_ins(key, tree[key], [item["loc"] for item in error.errors()])
                found.sections[key] = TypeAdapter(annotated).validate_python(repaired)


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


def _check_watch_every(found: Findings) -> None:
    """Between two looks at the loss, only a fused optimizer can drop a bad update by itself."""
    train, optimizer = found.sections.get("train"), found.sections.get("optimizer")
    if train is None or optimizer is None or train.watch_every == 1:
        return
    chosen = {name for name in ("foreach", "differentiable") if optimizer.arguments.get(name)}
    if not has_fused(optimizer.target) or chosen or optimizer.arguments.get("fused") is False:
        rule = f"must be 1 with an optimizer that is not fused, got {train.watch_every}"
        found.add("train.watch_every", rule, "Set train.watch_every=1, or optimizer=sgd, adam, adamw or adagrad")


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
    wrong = _wrong_optimizer(target) if isinstance(node, OptimizerNode) else ""
    if wrong:
        found.add(f"{key}._target_", f"{wrong}, got {node.target!r}", "Choose another optimizer")
        return
    hints = hints_of(target)
    known = _check_names(key, node, target, found)
    for name, value in node.arguments.items():
        if name in known and name in hints and not any(path.split(".")[0] == name for path in node.parts):
            _check_argument(f"{key}.{name}", value, hints[name], parameters[name].default, found)
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
            found.add(f"{key}.{name}", "must be given, got nothing", f"Set {key}.{name}=...")


def _check_names(key: str, node: Node, target: Any, found: Findings) -> list[str]:
    """Check that the target takes what the node gives, by name; return the names that it takes from a YAML."""
    parameters = parameters_of(target)
    provided = PROVIDED.get(key, frozenset()) | filled_in(target).keys()
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


def _wrong_optimizer(target: Any) -> str:
    """Return the rule that an optimizer's target breaks, "" when it breaks none."""
    if not inspect.isclass(target) or not issubclass(target, locate("torch.optim.Optimizer")):
        return "must be a class of optimizers, like those of torch.optim"
    return "must step without a closure" if needs_closure(target) else ""


def _check_argument(key: str, value: Any, hint: Any, default: Any, found: Findings) -> None:
    hint = as_written(hint)
    try:
        adapter(hint).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
    except PydanticSchemaGenerationError:
        return
    except ValidationError as error:
        item = error.errors()[0]
        if is_for_section(item):
            key = ".".join([key, *map(str, item["loc"])])
            found.add(key, f"{rule(item, hint)}, got {shown(item['input'])}", section_fix(item, key))
        else:
            found.add(
                key, f"{rule(item, hint)}, got {shown(value)}", fix_of_list(key, value, hint) or fix(key, default)
            )
