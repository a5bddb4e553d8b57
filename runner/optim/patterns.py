"""Groups by ordered rules on names, module types and dimensions: the first rule that fits claims a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from pydoc import locate
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt, MinLen
from torch import nn
from typing_extensions import TypedDict

from runner.durations import StepsOrZero, TotalSteps
from runner.errors import ConfigError, Problem, nearest
from runner.optim.groups import Group, Grouping, OptimizerSettings, Settings
from runner.optim.names import SHOWN, Patterns, as_list, fits, nothing
from runner.tasks.described import first_line, listed

KEY = "param_groups.rules"


class Rule(TypedDict, total=False):
    """What a group claims, and how it is trained; every other key is a hyperparameter of the optimizer.

    A parameter must fit all of `match`, `module` and `dims` that are given.

    Attributes:
        match: patterns on dotted names of parameters or of modules above them; one must fit.
        module: class names of the module that owns the parameter, such as Linear or *Norm*, or dotted paths; one must
            name its class or one that it inherits from.
        dims: number of dimensions, or [fewest, most].
        lr_multiplier: factor on `optimizer.lr`; 1 when not given.
        weight_decay: in place of the optimizer's.
        betas: in place of the optimizer's.
        use_muon: whether Muon takes it, for optimizers that have it beside another rule.
        schedule: factor of the step in place of the run's schedule.
        frozen: whether it stays as it is for the whole run.
        frozen_until: optimizer steps before it is trained.
    """

    match: Patterns
    module: Patterns
    dims: Annotated[int, Ge(0)] | Annotated[Sequence[Annotated[int, Ge(0)]], MinLen(2)]
    lr_multiplier: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    betas: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(2)]
    use_muon: bool
    schedule: Annotated[Callable[[int], float], "made from a section"]
    frozen: bool
    frozen_until: StepsOrZero


def patterns(
    *,
    rules: Mapping[str, Rule],
    optimizer_settings: OptimizerSettings,
    total_steps: TotalSteps,
    strict: bool = False,
) -> Grouping:
    """Give every parameter to the first rule that fits it.

    Args:
        rules: name of the group -> what it claims and how it is trained, in this order.
        optimizer_settings: filled in.
        total_steps: T, filled in.
        strict: whether a parameter that fits two rules is an error.
    Raises:
        ConfigError: there are no rules, one says not what it claims or is frozen to the end, or the optimizer refuses
            its hyperparameters. The grouping raises it where a rule fits no parameter, or no rule a parameter.
    """
    problems = [problem for name, rule in rules.items() for problem in _faults(name, rule)]
    problems += _refusals(rules, optimizer_settings)
    problems += [
        _too_late(name, r, total_steps) for name, r in rules.items() if r.get("frozen_until", 0) >= total_steps
    ]
    if not rules:
        problems.append(Problem(KEY, "must have a rule, got none", "Set param_groups.rules={all:{match:'*'}}"))
    if problems:
        raise ConfigError(problems)

    def split(model: nn.Module) -> list[Group]:
        claimed = _claims(rules, model, strict=strict)
        groups = []
        for name, rule in rules.items():
            trained = [parameter for parameter in claimed[name] if parameter.requires_grad]
            if rule.get("frozen"):
                for parameter in trained:
                    parameter.requires_grad_(False)
            elif trained:
                groups.append(_group(name, rule, trained))
        return groups

    return split


def _group(name: str, rule: Rule, parameters: list[nn.Parameter]) -> Group:
    return Group(
        name,
        parameters,
        lr_multiplier=rule.get("lr_multiplier", 1.0),
        hyperparameters=_hyperparameters(rule),
        schedule=rule.get("schedule"),
        frozen_steps=rule.get("frozen_until", 0),
    )


def _hyperparameters(rule: Rule) -> dict[str, Any]:
    ours = Rule.__annotations__.keys() - {"weight_decay", "betas", "use_muon"}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in rule.items() if name not in ours}


def _faults(name: str, rule: Rule) -> list[Problem]:
    """Return what is wrong with a rule, whatever the model."""
    problems = []
    if not {"match", "module", "dims"} & rule.keys():
        fix = f'Set {KEY}.{name}.match="*" for all that is left'
        problems.append(Problem(f"{KEY}.{name}", "must say what it claims by match, module or dims, got none", fix))
    dims = rule.get("dims")
    if isinstance(dims, Sequence) and (len(dims) != 2 or dims[0] > dims[1]):
        rule_text = f"must be a number or [fewest, most], got {list(dims)}"
        problems.append(Problem(f"{KEY}.{name}.dims", rule_text, f"Set {KEY}.{name}.dims=[0,1] for vectors"))
    others = sorted(rule.keys() - {"match", "module", "dims", "frozen"})
    if rule.get("frozen") and others:
        text = f"must stand without what is for training, got {', '.join(others)}"
        problems.append(Problem(f"{KEY}.{name}.frozen", text, "Remove it or them"))
    return problems


def _refusals(rules: Mapping[str, Rule], settings: Settings) -> Iterator[Problem]:
    """Yield what the optimizer says against the hyperparameters of each rule, whatever the model."""
    given = {name: _hyperparameters(rule) for name, rule in rules.items()}
    only_for_groups: Set[str] = getattr(settings.kind, "group_keys", set())
    for name, own in given.items():
        # classes check their arguments, not what groups put in their place
        arguments = {key: value for key, value in own.items() if key not in only_for_groups}
        try:
            groups = [{"params": [nn.Parameter(torch.zeros(1, 1))], "name": n, **given[n]} for n in given]
            if own:
                settings.kind(groups, **{**settings.arguments, **arguments})
        except ConfigError:
            continue  # a rule on all groups together: it is applied to the real ones
        except Exception as error:
            text = f"must be accepted by {settings.kind.__name__}, which says: {first_line(error)}"
            yield Problem(f"{KEY}.{name}", text, f"Change {', '.join(own)}")


def _too_late(name: str, rule: Rule, total_steps: int) -> Problem:
    text = f"must end before the run of {total_steps} steps does, got {rule['frozen_until']} steps"
    return Problem(
        f"{KEY}.{name}.frozen_until", text, f"Set {KEY}.{name}.frozen_until=50%, or frozen=true in its place"
    )


def _claims(rules: Mapping[str, Rule], model: nn.Module, *, strict: bool) -> dict[str, list[nn.Parameter]]:
    """Return rule -> the parameters that it claims."""
    parameters = dict(model.named_parameters())
    wanted = {name: [p for p in parameters if _fits(p, rule, model)] for name, rule in rules.items()}
    takers = {p: [name for name, found in wanted.items() if p in found] for p in parameters}
    claimed = {name: [p for p in found if takers[p][0] == name] for name, found in wanted.items()}
    problems = []
    if twice := [f"{p} ({', '.join(names)})" for p, names in takers.items() if strict and len(names) > 1]:
        rule = f"must claim a parameter once in strict mode, got two rules for {listed(twice, most=SHOWN)}"
        problems.append(Problem(KEY, rule, "Narrow one of them, or set param_groups.strict=false"))
    if left := [p for p, names in takers.items() if not names and parameters[p].requires_grad]:
        rule = f"must claim every trained parameter, got no rule for {listed(left, most=SHOWN)}"
        problems.append(Problem(KEY, rule, "End with a rule for the rest, such as rest: {match: '*'}"))
    fruitless = [name for name, found in claimed.items() if not found and not _takes_all(rules[name])]
    problems += [_fruitless(name, rules[name], model, wanted, takers) for name in fruitless]
    if problems:
        raise ConfigError(problems)
    return {name: [parameters[p] for p in found] for name, found in claimed.items()}


def _takes_all(rule: Rule) -> bool:
    """Whether a rule is for whatever the others leave, which may be nothing."""
    return as_list(rule.get("match", [])) == ["*"] and not {"module", "dims"} & rule.keys()


def _fits(name: str, rule: Rule, model: nn.Module) -> bool:
    value, owner = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    dims = rule.get("dims", value.ndim)
    fewest, most = (dims, dims) if isinstance(dims, int) else dims
    kinds = as_list(rule.get("module", []))
    is_of_kind = not kinds or any(_is_kind(type(owner), kind) for kind in kinds)
    return fits(name, rule.get("match", "*")) and is_of_kind and fewest <= value.ndim <= most


def _is_kind(owner: type[nn.Module], kind: str) -> bool:
    """Whether a class, or one that it inherits from, has a name or is what a dotted path names."""
    inherited = owner.__mro__[: owner.__mro__.index(nn.Module)] or (owner,)
    if "." in kind:
        return locate(kind) in inherited
    return any(fnmatchcase(one.__name__, kind) for one in inherited)


def _fruitless(
    name: str, rule: Rule, model: nn.Module, wanted: Mapping[str, list[str]], takers: Mapping[str, list[str]]
) -> Problem:
    """Say why a rule claims nothing."""
    key, parameters = f"{KEY}.{name}", dict(model.named_parameters())
    if lost := wanted[name]:
        others = dict.fromkeys(takers[p][0] for p in lost)
        text = f"must claim a parameter, got all {len(lost)} that fit claimed by {', '.join(others)} before"
        return Problem(key, text, f"Put {name} above, or remove it")
    for pattern in as_list(rule.get("match", [])):
        if not any(fits(p, pattern) for p in parameters):
            return nothing(f"{key}.match", pattern, parameters)
    owners = dict.fromkeys(type(model.get_submodule(p.rpartition(".")[0])).__name__ for p in parameters)
    for kind in as_list(rule.get("module", [])):
        if not any(_fits(p, {"module": kind}, model) for p in parameters):
            text = f"must name a module that owns parameters of the model, got {kind!r}"
            close = nearest(kind, list(owners))
            return Problem(f"{key}.module", text, f"Did you mean {close}" if close else f"There are {listed(owners)}")
    dims = rule.get("dims")
    but_dims: Rule = {**rule}
    but_dims.pop("dims", None)
    shapes = sorted({parameters[p].ndim for p in parameters if _fits(p, but_dims, model)})
    if dims is None or not shapes:
        return Problem(
            key, "must fit a parameter, got none that fits match and module together", "Leave one of them out"
        )
    rest = " and ".join(condition for condition in ("match", "module") if condition in rule)
    text = f"must be dimensions of a parameter{f' that fits {rest}' if rest else ''}, got {dims}"
    return Problem(f"{key}.dims", text, f"Set {key}.dims={shapes[-1]}")
