"""What is allowed but odd about the words of a page, without looking at the values of its schedules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from runner.build_schedules import made_for
from runner.checks.remedies import behind_ladder
from runner.checks.scaling import far_from_reference, unscaled_warmup, unusual_rule
from runner.checks.watch import after_stop, deaf_remedy, early_stop_first, never_judged
from runner.config import Config
from runner.durations import Clock, parse, to_steps
from runner.nodes import Node
from runner.signatures import durations_of, locate, parameters_of

_SHORT_EPOCH = 10  # steps; epochs and steps are hard to tell apart below


def warnings(config: Config, clock: Clock) -> list[str]:
    """Return what is allowed but unusual, a sentence each.

    Args:
        config: checked.
        clock: of the run.
    """
    of_page = (
        _unusual_lr, _deaf_optimizer, _own_schedule, _decay_of_average, _wrong_regime, _schedule_of_zero,
        deaf_remedy, after_stop, behind_ladder, early_stop_first, never_judged,
        unusual_rule, far_from_reference, unscaled_warmup,
    )  # fmt: skip
    of_clock = (_epochs_as_steps, _scheduler_in_epochs, _coinciding)
    return [text for rule in of_page if (text := rule(config))] + [
        text for timed in of_clock for text in timed(config, clock)
    ]


def _unusual_lr(config: Config) -> str:
    """Say that a learning rate is more than 10x outside its typical range."""
    optimizer, lr, typical = config.optimizer, config.scaled_optimizer.lr, config.optimizer.typical
    low, high = getattr(typical, config.task.regime) if typical is not None else (lr, lr)
    if typical is None or low / 10 <= lr <= high * 10:
        return ""
    times, side = (lr / high, "above") if lr > high else (low / lr, "below")
    scaled = f" after scaling ({optimizer.lr:g} before)" if config.scaling.rule != "none" else ""
    return (
        f"optimizer.lr: {lr:g}{scaled} is {times:.3g} times {side} the typical range {low:g} to {high:g} of "
        f"{optimizer.name} {config.task.regime.replace('_', ' ')} "
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


def _own_schedule(config: Config) -> str:
    """Say that a class changes the learning rate by itself, after it has been recorded."""
    given = config.optimizer.arguments
    if given.get("lr_decay"):
        return (
            f"optimizer.lr_decay: {config.optimizer.name} lowers the learning rate by it beside the schedule, and "
            "neither preview nor records show that. Set optimizer.lr_decay=0."
        )
    if not given.get("warmup_steps"):
        return ""
    is_alone = config.warmup.target.endswith(".none")
    seen = "neither preview nor records show it" if is_alone else "it is multiplied with the one of the page"
    fix = f" warmup=linear warmup.duration={given['warmup_steps']}" if is_alone else ""
    return (
        f"optimizer.warmup_steps: {config.optimizer.name} has a warmup of its own of {given['warmup_steps']} steps, "
        f"and {seen}. Set optimizer.warmup_steps=0{fix}."
    )


def _decay_of_average(config: Config) -> str:
    """Say that a schedule-free optimizer, whose average of the weights stands in for a decay, is given one."""
    if not config.optimizer.target.startswith("schedulefree.") or config.schedule.target.endswith(".constant"):
        return ""
    return (
        f"schedule: {config.optimizer.name} averages the weights in place of a decay of the learning rate, which it "
        "wants constant after the warmup. Set schedule=constant."
    )


def _wrong_regime(config: Config) -> str:
    """Say that loaded weights are trained with the learning rates of fresh ones."""
    if config.task.init_from is None or config.task.regime == "fine_tune":
        return ""
    return (
        "task.regime: weights come from task.init_from, but the typical learning rates are those of training from "
        "scratch. Set task.regime=fine_tune for the lower ones of fine-tuning."
    )


def _schedule_of_zero(config: Config) -> str:
    """Say that a schedule multiplies a hyperparameter that is switched off."""
    given = config.optimizer.arguments
    off = [name for name in config.schedule_of if given.get(name) == 0]
    if not off:
        return ""
    return f"schedule_of.{off[0]}: optimizer.{off[0]} is 0, and so is every multiple of it. Set optimizer.{off[0]}."


def _epochs_as_steps(config: Config, clock: Clock) -> Iterator[str]:
    """Say that small whole numbers are steps here, where the run is declared in epochs of many steps.

    `milestones=[30,60,90]` of a run of 100 epochs is what people write who mean epochs; as steps it is legal.
    """
    number, unit = parse(config.train.duration)
    if unit != "ep" or clock.steps_per_epoch < _SHORT_EPOCH:
        return
    found = list(_durations(config))
    in_steps = {key.split(".")[0] for key, given in found if any(_plain(each) > number for each in given.values())}
    for key, given in found:
        small = [_plain(duration) for duration in given.values()]
        if (
            key.split(".")[0] in in_steps
            or not any(small)
            or _is_default(config, key, given)
            or any(parse(d)[1] for d in given.values() if parse(d)[0])
        ):
            continue
        longest = max(small) * clock.steps_per_epoch
        if key.endswith("_steps") or max(small) == 1 or (len(given) == 1 and longest >= 0.5 * (clock.total_steps or 0)):
            continue  # says so itself, is the usual way to say every step, or can hardly have been meant
        meant = [f"{duration}ep" if _plain(duration) else "0" for duration in given.values()]
        shown = ", ".join(map(str, given.values()))
        is_list = next(iter(given)) != ""
        value = f"[{','.join(meant)}]" if is_list else meant[0]
        yield (
            f"{key}: {shown} {'are' if len(given) > 1 else 'is'} in optimizer steps, of which an epoch has "
            f"{clock.steps_per_epoch:,}. Set {key}={value} if epochs were meant."
        )


def _scheduler_in_epochs(config: Config, clock: Clock) -> Iterator[str]:
    """Say that the numbers of a scheduler of torch are steps here, where they look like epochs of the run."""
    number, unit = parse(config.train.duration)
    scheduler = config.schedule.arguments.get("scheduler")
    interval = config.schedule.arguments.get("interval", 1)
    if unit != "ep" or clock.steps_per_epoch < _SHORT_EPOCH or interval != 1 or not isinstance(scheduler, Mapping):
        return
    for name, value in scheduler.items():
        largest = max(value) if isinstance(value, list) and value and all(type(v) is int for v in value) else value
        if type(largest) is int and 1 < largest <= number:
            yield (
                f"schedule.scheduler.{name}: {value} is in optimizer steps, of which an epoch has "
                f"{clock.steps_per_epoch:,}. Set schedule.interval=1ep if epochs were meant."
            )


def _is_default(config: Config, key: str, given: Mapping[str, str | int]) -> bool:
    """Whether a duration is what the schedule itself takes when none is given, as the interval of `schedule=torch`."""
    section, _, argument = key.partition(".")
    if section != "schedule" or argument not in (parameters := parameters_of(locate(config.schedule.target))):
        return False
    return list(given.values()) == [parameters[argument].default]


def _plain(duration: str | int) -> int:
    """Return a duration that is a number of steps, 0 for one with a unit."""
    number, unit = parse(duration)
    return 0 if unit else int(number)


def _coinciding(config: Config, clock: Clock) -> Iterator[str]:
    """Say that several times of one list fall on one step: the run is shorter than they were meant for."""
    for key, given in _durations(config):
        if key.rpartition(".")[2] == "periods":
            continue
        time = made_for(config.schedule, clock) if key.startswith("schedule.") else clock
        counts = Counter(to_steps(duration, time) for duration in given.values())
        step, count = counts.most_common(1)[0]
        if count > 1:
            fix = "Leave one out" if len({*given.values()}) < len(given) else "Set a longer train.duration"
            yield f"{key}: {count} of them fall on step {step:,} of {time.total_steps:,}. {fix}."


def _durations(config: Config) -> Iterator[tuple[str, dict[str, str | int]]]:
    """Yield (key, durations) of the schedules; those of one list together, by place, one alone by ""."""
    nodes: dict[str, Node] = {"warmup": config.warmup, "schedule": config.schedule}
    nodes |= {f"schedule_of.{name}": node for name, node in config.schedule_of.items()}
    nodes |= {f"overlays.{name}": node for name, node in config.overlays.items()}
    if config.param_groups.arguments:  # others have no durations, and naming them takes torch
        nodes["param_groups"] = config.param_groups
    for key, node in nodes.items():
        lists: dict[str, dict[str, str | int]] = {}
        for path, duration in durations_of(node).items():
            name, _, place = path.rpartition(".")
            owner, index = (name, place) if place.isdigit() else (path, "")
            lists.setdefault(f"{key}.{owner}", {})[index] = duration
        yield from lists.items()
