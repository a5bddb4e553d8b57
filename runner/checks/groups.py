"""Rules of parameter groups that take the optimizer to check."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from runner.config import OptimizerNode
from runner.errors import unknown_key
from runner.signatures import fields_of, hints_of, locate, parameters_of, section_type
from runner.wording import Findings, shown

_NOT_FOR_GROUPS = {"params", "lr", "adamw_lr", "foreach", "fused", "capturable", "differentiable"}
_HYPERPARAMETERS = {"weight_decay", "betas", "use_muon"}
_EXAMPLE = "{vectors:{dims:[0,1],lr_multiplier:0.1},rest:{match:'*'}}"


def check_group_rules(found: Findings) -> None:
    """Check that every key of a group is one of ours, or a hyperparameter that the optimizer has."""
    node, optimizer = found.sections.get("param_groups"), found.sections.get("optimizer")
    wrong = {problem.key for problem in found.problems}
    if node is None or optimizer is None or wrong & {"param_groups._target_", "optimizer._target_"}:
        return
    for name, hint in hints_of(locate(node.target)).items():
        kind, groups = section_type(hint), node.arguments.get(name)
        if kind is not None and not isinstance(groups, Mapping):
            key = f"param_groups.{name}"
            found.add(key, f"must be sections by name of the group, got {shown(groups)}", f"Set {key}={_EXAMPLE}")
        elif kind is not None and isinstance(groups, Mapping):
            for group, items in groups.items():
                _check_group(f"param_groups.{name}.{group}", str(group), items, set(fields_of(kind)), optimizer, found)


def _check_group(key: str, group: str, items: Any, ours: set[str], optimizer: OptimizerNode, found: Findings) -> None:
    if not re.fullmatch(r"[\w-]+", group):
        found.add(key, f"must be named by letters, digits, '_' and '-', got {group!r}", "Rename it")
    if not isinstance(items, Mapping):
        found.add(key, f"must be a section with keys of its own, got {shown(items)}", f"Set {key}={{match:'*'}}")
        return
    target = locate(optimizer.target)
    parameters = parameters_of(target)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    allowed = (parameters.keys() | getattr(target, "group_keys", set())) - _NOT_FOR_GROUPS
    for name, value in items.items():
        if name == "lr":
            factor = f"={value / optimizer.lr:g}" if isinstance(value, int | float) else ""
            rule = f"must be a factor on optimizer.lr, got {shown(value)}"
            found.add(f"{key}.lr", rule, f"Set {key}.lr_multiplier{factor} in its place")
        elif name in _HYPERPARAMETERS and name not in allowed and not takes_any:
            rule = f"must be left out with {optimizer.name}, which has none, got {shown(value)}"
            having = "muon" if name == "use_muon" else "adamw"
            found.add(f"{key}.{name}", rule, f"Remove it, or set optimizer={having}")
        elif name not in ours | allowed and not takes_any:
            found.problems.append(unknown_key(f"{key}.{name}", sorted(ours | allowed)))
