"""Rules for schedules that take the length of the run, or the optimizer, to decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from runner.build_schedules import build_schedules
from runner.config import Config, LRScheduleNode, OptimizerNode, Scaling, ScheduleNode
from runner.durations import Clock, to_steps
from runner.errors import ConfigError, nearest
from runner.needs import LEARNING_RATES, members_of, written_numbers
from runner.nodes import Node
from runner.scaling import Hyperparameters, scale
from runner.signatures import filled_in, hints_of, locate, parameters_of
from runner.wording import Findings, shown

_CONSTANT = LRScheduleNode(target="runner.schedules.decays.constant")
_SHORT_WARMUP = Node(target="runner.schedules.warmups.linear", duration=1)
_SCALED = ("scaling", "optimizer.betas", "optimizer.eps", "train.batch_size")
_OF_LR = ("scaling", "optimizer.lr", "train.batch_size")
_NEEDED = {"warmup", "schedule", "schedule_of", "overlays", "optimizer", "scaling", "train", "seed"}


def check_schedule_keys(found: Findings) -> None:
    """Check what the keys of the runner around a schedule ask of its target and of the optimizer."""
    wrong = {problem.key for problem in found.problems}
    schedule, optimizer = (found.sections.get(name) for name in ("schedule", "optimizer"))
    if schedule is not None and schedule.min_lr is not None and "schedule._target_" not in wrong:
        _check_min_lr(schedule, _scaled_lr(found), found)
    if optimizer is not None and "optimizer._target_" not in wrong:
        _check_schedule_of(found.sections.get("schedule_of", {}), optimizer, found)


def _scaled_lr(found: Findings) -> float | None:
    """Return the base learning rate as the run uses it; None where something that it is made of is wrong."""
    optimizer, scaling, train = (found.sections.get(name) for name in ("optimizer", "scaling", "train"))
    if optimizer is None or scaling is None or train is None or any(p.key.startswith(_OF_LR) for p in found.problems):
        return None
    factor = scaling.factor(train.batch_size)
    return scale(Hyperparameters(optimizer.lr), rule=scaling.rule, factor=factor).lr


def _check_min_lr(schedule: LRScheduleNode, lr: float | None, found: Findings) -> None:
    """Refuse a floor above the rate, which torch would raise the rate to, and one that is not where the run ends."""
    takes, key, given = parameters_of(locate(schedule.target)).keys(), "schedule.min_lr", f"got {schedule.min_lr:g}"
    if "floor" not in takes:
        fix = "Set schedule.min_lr=null, or one with a floor such as schedule=cosine, linear, wsd or polynomial"
        found.add(key, f"must be null for a schedule without a floor, {given}", fix)
    elif "final" in takes:
        final = min((schedule.min_lr or 0.0) / lr, 1.0) if lr is not None else 0.0
        fix = f"Set schedule.min_lr=null schedule.final={final:g}, which is a factor"
        found.add(key, f"must be null for a schedule that does not end at its floor, {given}", fix)
    elif schedule.arguments.get("peaks") is not None:
        fix = "Set schedule.peaks=null, or schedule.min_lr=null and schedule.floor, which is a factor"
        found.add(key, f"must be null with schedule.peaks, which the floor is multiplied with, {given}", fix)
    elif schedule.arguments.get("floor"):
        rule = f"must be null with schedule.floor={shown(schedule.arguments['floor'])}, which says the same, {given}"
        found.add(key, rule, "Set schedule.floor=0, or schedule.min_lr=null")
    elif lr is not None and schedule.min_lr is not None and schedule.min_lr > lr:
        scaled = " after scaling" if found.sections["scaling"].rule != "none" else ""
        rule = f"must be at most optimizer.lr={lr:g}{scaled}, {given}"
        found.add(key, rule, f"Set schedule.min_lr={lr / 10:g} or less")


def _check_schedule_of(schedules: Mapping[str, ScheduleNode], optimizer: OptimizerNode, found: Findings) -> None:
    """Refuse a schedule of what the optimizer does not have."""
    wrong = {problem.key for problem in found.problems}
    known = _scheduled_by(optimizer) if schedules.keys() - written_numbers(optimizer) else None  # imports the optimizer
    for name in schedules:
        if name in LEARNING_RATES:
            rule = f"must not be the learning rate, whose schedule is `schedule`, got {name!r}"
            found.add(f"schedule_of.{name}", rule, f"Set ~schedule_of.{name}, and schedule to what is wanted")
        elif known is not None and name not in known and not wrong & {f"optimizer.{name}", "optimizer.betas"}:
            close = nearest(name, known)
            rule = f"must be a hyperparameter of {optimizer.target} ({', '.join(known) or 'none'}), got {name!r}"
            mend = f"Did you mean schedule_of.{close}" if close else "Leave it out, or set one of these"
            found.add(f"schedule_of.{name}", rule, mend)


def _scheduled_by(optimizer: OptimizerNode) -> list[str]:
    """Return the hyperparameters of an optimizer that a factor can multiply: numbers of the page or of the class."""
    target = locate(optimizer.target)
    hints = {name: get_args(hint)[0] if get_args(hint) else hint for name, hint in hints_of(target).items()}
    values = {name: parameter.default for name, parameter in parameters_of(target).items()} | optimizer.arguments
    numbers = {
        name
        for name, value in values.items()
        if type(value) in (int, float) and hints.get(name) not in (bool, int) and name not in LEARNING_RATES
    }
    return sorted(numbers | members_of(values.get("betas"), int, float))


def check_schedules(found: Findings, clock: Clock) -> None:
    """Check the schedules of a run by making them.

    Everything else is checked without calling what a `_target_` names. Schedules are the exception: they are made of
    numbers alone, in microseconds, and half of their rules (order, lengths, what a function of the user's returns)
    only show then. So a bad one in the last job of a multirun stops the first. What has a problem already is replaced
    by one that has none, so that it hides no other.

    Args:
        found: so far; durations are checked.
        clock: of the run, with its length.
    """
    sections = found.sections
    if not sections.keys() >= _NEEDED:
        return
    for key, node in {"schedule": sections["schedule"], **_members("schedule_of", sections["schedule_of"])}.items():
        _check_horizon(key, node, clock, found)
    try:
        build_schedules(Config.model_construct(**_sound(found)), clock)
    except ConfigError as error:
        for problem in error.problems:
            found.add(*problem)


def _check_horizon(key: str, node: ScheduleNode, clock: Clock, found: Findings) -> None:
    """Refuse a length shorter than the run: its rest would be trained at the end value, which nobody asks for so."""
    total = clock.total_steps or 0
    if node.horizon is None:
        return
    try:
        steps = to_steps(node.horizon, clock)
    except ValueError as error:
        found.add(f"{key}.horizon", f"{error}, got {shown(node.horizon)}", f"Set {key}.horizon=null")
        return
    if steps < total:
        rule = f"must not be shorter than the run of {total} steps, got {node.horizon} ({steps} steps)"
        found.add(f"{key}.horizon", rule, f"Set {key}.horizon=null, or a shorter train.duration")


def _members(group: str, nodes: Mapping[str, ScheduleNode]) -> dict[str, ScheduleNode]:
    return {f"{group}.{name}": node for name, node in nodes.items()}


def _sound(found: Findings) -> dict[str, Any]:
    """Return the sections with another schedule, warmup or nothing in the place of what has a problem."""
    wrong, sections = {problem.key for problem in found.problems}, found.sections
    schedule = sections["schedule"]
    ours = {"horizon", "min_lr"} if "optimizer.lr" in wrong else {"horizon"} & {key.rpartition(".")[2] for key in wrong}
    schedule = schedule.model_copy(update=dict.fromkeys(ours))
    sound = {
        **sections,
        "schedule": _CONSTANT if _has_problem("schedule", schedule, wrong - {"schedule.horizon"}) else schedule,
        "warmup": _SHORT_WARMUP if _has_problem("warmup", sections["warmup"], wrong) else sections["warmup"],
    }
    if any(key.startswith(_SCALED) for key in wrong):
        sound["scaling"] = Scaling(rule="none", reference_batch_size=None, betas=False)
    for group in ("schedule_of", "overlays"):
        members = {f"{group}.{name}": (name, node) for name, node in sections[group].items()}
        sound[group] = {name: node for key, (name, node) in members.items() if not _has_problem(key, node, wrong)}
    return sound


def _has_problem(key: str, node: Node, wrong: set[str]) -> bool:
    """Whether a node cannot be made: of a problem of its own, or of a learning rate that it asks for."""
    if any(f"{problem}.".startswith(f"{key}.") or problem == key.split(".")[0] for problem in wrong):
        return True
    return "optimizer.lr" in wrong and "base_lr" in filled_in(locate(node.target)).values()
