"""Rules that take the data and the machine to decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.config import Resume, TaskNode, Train
from runner.durations import Clock, to_steps
from runner.errors import CheckpointError, ConfigError, nearest
from runner.facts import Facts
from runner.needs import is_told, nodes_to_bind
from runner.signatures import durations_of, form, hint_at, hints_of, locate
from runner.wording import Findings, fix, shown

_STAND_IN = {"_target_": "torch.nn.Identity"}
FindFacts = Callable[[TaskNode, Train, Resume, int], Facts]


def check_facts(found: Findings, find_facts: FindFacts) -> Facts | None:
    """Check the rules that take facts, with safe values in place of what is known to be wrong; return the facts.

    A mode that rebuilds a run wants its task and the device, one that trains all of them, any other none.
    """
    mode = found.sections["mode"]
    wrong = {problem.key for problem in found.problems}
    if "task._target_" in wrong or not (mode.trains or (mode.rebuilds and "source" not in wrong)):
        return None
    train, resume = found.sections["train"], found.sections["resume"]
    if is_told(found.sections):
        examples = found.sections["task"].examples
        facts = Facts({"train": examples} if examples else {}, {}, None, ())
        return facts._replace(clock=_check_train(train, facts, wrong, found))
    task = _without(found.sections["task"], wrong)
    if "resume.from" in wrong:
        resume = resume.model_copy(update={"source": None})
    try:
        facts = find_facts(task, train, resume, found.sections.get("seed", 0))
    except ConfigError as error:
        found.problems.extend(problem for problem in error.problems if not _follows(problem.key, wrong))
        return None
    except CheckpointError as error:
        found.add("resume.from", f"must have a readable checkpoint, but {str(error).rstrip('.')}", "Try the other one")
        return None
    if not mode.schedules_only:
        _check_device(train, facts, found)
    if not mode.trains:
        return None
    if not mode.schedules_only:
        _check_optimizer(facts, found)
    _check_examples(task, facts, found)
    clock = _check_train(train, facts, wrong, found)
    if facts.unreadable:
        found.add("task.init_from", facts.unreadable, "Give a run, or a state_dict in a .pt, .pth or .safetensors file")
    if train.early_stop.patience is not None and "val" not in facts.examples:
        rule = f"must be null for a task without a val split, got {train.early_stop.patience}"
        found.add("train.early_stop.patience", rule, "Set train.early_stop.patience=null")
    metric = train.early_stop.metric
    if facts.examples and metric not in facts.goals:
        close = nearest(metric, list(facts.goals))
        rule = f"must be a metric of the task ({', '.join(facts.goals)}), got {metric!r}"
        found.add("train.early_stop.metric", rule, f"Set train.early_stop.metric={close or 'loss'}")
    return facts._replace(clock=clock)


def check_init_from(found: Findings) -> None:
    """Whether there is something to begin with; a run that goes on begins with its checkpoint."""
    task, mode, resume = (found.sections.get(name) for name in ("task", "mode", "resume"))
    if task is None or task.init_from is None or mode is None or not mode.trains:
        return
    if (resume is None or resume.source is None) and not (task.init_from and Path(task.init_from).exists()):
        rule = f"must be a run directory or a file of weights, got {task.init_from!r}"
        found.add("task.init_from", rule, "Give a path under runs/, or a .pt, .pth or .safetensors file")


def _without(task: TaskNode, wrong: set[str]) -> TaskNode:
    """Return the task with its defaults in place of wrong arguments.

    A factory, which making the task does not call, gets a stand-in: it may have no default.
    """
    refused = {key.split(".")[1] for key in wrong if key.startswith("task.")}
    hints = hints_of(locate(task.target))
    kept = {name: value for name, value in task.arguments.items() if name not in refused}
    kept |= {name: _STAND_IN for name in refused if form(hint_at(hints, name)) == "factory"}
    begin = None if "init_from" in refused else task.init_from
    return TaskNode(_target_=task.target, regime=task.regime, init_from=begin, examples=task.examples, **kept)


def _follows(key: str, wrong: set[str]) -> bool:
    """Whether what a task says of a key only follows from a wrong argument: of the same one, or of all of them."""
    about_task = {other for other in wrong if other.startswith("task.")}
    return bool(about_task) and any(f"{other}.".startswith(f"{key}.") or key.startswith(f"{other}.") for other in wrong)


def _check_device(train: Train, facts: Facts, found: Findings) -> None:
    if facts.device is None:
        rule = f"must be a device of this machine ({', '.join(facts.devices)}), got {train.device!r}"
        found.add("train.device", rule, "Set train.device=auto")
    elif train.precision == "fp16" and facts.device == "cpu":
        found.add("train.precision", "must be fp32 or bf16 on a CPU, got 'fp16'", "Set train.precision=bf16")


def _check_optimizer(facts: Facts, found: Findings) -> None:
    """Whether the optimizer runs on the device of the run."""
    optimizer = found.sections.get("optimizer")
    if optimizer is not None and optimizer.devices and facts.device not in (None, *optimizer.devices):
        needed = " or ".join(optimizer.devices)
        rule = f"must be an optimizer that runs on {facts.device}, got {optimizer.target!r}, which needs {needed}"
        there = next((name for name in facts.devices if name.partition(":")[0] in optimizer.devices), None)
        found.add("optimizer._target_", rule, f"Set train.device={there}" if there else "Choose another optimizer")


def _check_examples(task: TaskNode, facts: Facts, found: Findings) -> None:
    """Whether the number of training examples that is known beforehand is that of the data."""
    examples = facts.examples.get("train")
    if task.examples is None or task.examples == examples:
        return
    rule = f"must be the number of training examples ({examples})" if examples else "must be null without a data set"
    found.add("task.examples", f"{rule}, got {task.examples}", f"Set task.examples={examples or 'null'}")


def _check_train(train: Train, facts: Facts, wrong: set[str], found: Findings) -> Clock | None:
    _check_batches(train, facts, found)
    if wrong & {"train.duration", "train.batch_size"}:
        return None
    return _check_durations(train, facts, found)


def _check_batches(train: Train, facts: Facts, found: Findings) -> None:
    examples = facts.examples.get("train")
    if examples is not None and train.batch_size > examples:
        rule = f"must be at most the {examples} training examples of the task, got {train.batch_size}"
        found.add("train.batch_size", rule, f"Set train.batch_size={examples} or less")
    if examples is not None and train.accumulate > train.batch_size:
        rule = f"must be at most train.batch_size={train.batch_size}, got {train.accumulate}"
        found.add("train.accumulate", rule, f"Set train.accumulate={train.batch_size} or less")


def _check_durations(train: Train, facts: Facts, found: Findings) -> Clock | None:
    """Resolve every duration; return the clock of the run where its length is one."""
    clock = Clock(train.batch_size, facts.examples.get("train"))
    total = _resolve("train.duration", train.duration, clock, found)
    if total is None:
        return None
    if facts.steps_made is not None and facts.steps_made >= total:
        rule = f"must be a run with steps left, got one that has made {facts.steps_made} of {total}"
        found.add("resume.from", rule, "Set a longer train.duration to go on")
    clock = clock._replace(total_steps=total)
    for name in () if is_told(found.sections) else ("eval_every", "checkpoint_every"):
        if (duration := getattr(train, name)) is not None:
            _resolve(f"train.{name}", duration, clock, found)
    for key, node in nodes_to_bind(found.sections):
        if any(problem.key.startswith(f"{key}.") for problem in found.problems):
            continue
        for name, duration in durations_of(node).items():
            _resolve(f"{key}.{name}", duration, clock, found)
    return clock


def _resolve(key: str, duration: str | int, clock: Clock, found: Findings) -> int | None:
    try:
        return to_steps(duration, clock)
    except ValueError as error:
        in_steps = f"Set {key}=500, in steps"
        found.add(key, f"{error}, got {shown(duration)}", in_steps if clock.examples is None else fix(key))
        return None
