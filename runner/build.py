"""Config -> objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from runner.assemble import make, refusals
from runner.build_meters import build_meters, unmeasured
from runner.build_optimizer import build_optimizer
from runner.build_schedules import RunSchedules, build_schedules
from runner.build_snapshots import build_snapshots
from runner.build_task import build_task, task_facts
from runner.checks.watch import asked_for, silent_detectors
from runner.config import Config, Resume, TaskNode, Train
from runner.durations import Clock, to_steps
from runner.errors import CheckpointError, ConfigError, Problem
from runner.facts import Facts
from runner.nodes import Node
from runner.optim.apply import Schedules, keep_initial
from runner.optim.freezing import zero_while_frozen
from runner.optim.groups import Group, Settings, make_groups
from runner.optim.muon import with_adamw_lr
from runner.signatures import locate
from runner.tasks.closing import in_use
from runner.tasks.protocol import Task
from runner.train.clipping import Clipping
from runner.train.initial import InitialWeights, load_initial_weights, read_weights
from runner.train.meters import Meter
from runner.train.plan import TrainPlan
from runner.train.probe import probe
from runner.train.saved import BEST, FOLDER, find_misfit, newest, other_groups, read_checkpoint, steps_made
from runner.train.seeding import make_deterministic, seed_everything
from runner.watch import Watch

_DEFAULT_THREADS = torch.get_num_threads()


class Experiment(NamedTuple):
    """The objects of a run.

    Attributes:
        schedules: what `fit` applies, by group and hyperparameter.
        declared: what they were made from, of the whole run.
        remarks: what the user should know before it trains, a sentence each, the key first.
        meters: measure what the detectors need.
        clipping: scales gradients down.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    schedules: Schedules
    plan: TrainPlan
    watch: Watch
    declared: RunSchedules
    remarks: Sequence[str]
    meters: Sequence[Meter]
    clipping: Clipping
    initial_weights: InitialWeights | None = None

    def parts(self) -> dict[str, Any]:
        """Return what `fit` takes of it, by the names of its arguments."""
        return {k: v for k, v in self._asdict().items() if k not in ("declared", "remarks", "initial_weights")}


def find_facts(task: TaskNode, train: Train, resume: Resume, seed: int) -> Facts:
    """Return what only the data and this machine can tell, for `check`.

    Raises:
        ConfigError: the task refuses its arguments or cannot get its data.
        CheckpointError: the checkpoint to go on from cannot be read.
    """
    source = checkpoint_source(resume)
    known = task_facts(task, batch_size=train.batch_size, seed=seed)
    devices = available_devices()
    device = devices[0] if train.device == "auto" else train.device
    names = {*devices, *(name.partition(":")[0] for name in devices)}
    there = device.partition(":")[0] if device in names else None
    unreadable = ""
    if source is None and task.init_from is not None:
        try:
            read_weights(Path(task.init_from))
        except CheckpointError as error:
            unreadable = str(error)
    made = steps_made(source) if source is not None else None
    return Facts(known.examples, known.goals, there, devices, made, unreadable)


def checkpoint_source(resume: Resume) -> Path | None:
    """Return the checkpoint to go on from, None for a fresh start."""
    if resume.source is None:
        return None
    folder = Path(resume.source) / FOLDER
    return newest(folder) if resume.checkpoint == "last" else folder / BEST


def hardware(plan: TrainPlan) -> dict[str, str]:
    """Return what the run computes on."""
    device = plan.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "threads": str(torch.get_num_threads())}


def available_devices() -> tuple[str, ...]:
    """Return the devices of this machine, the best first."""
    cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def find_device(name: str) -> torch.device:
    """Return the device that a name stands for; "auto" is the best there is."""
    return torch.device(available_devices()[0] if name == "auto" else name)


def set_up_torch(train: Train) -> None:
    """Set the number of threads, and whether operations must be deterministic."""
    torch.set_num_threads(train.threads or _DEFAULT_THREADS)
    make_deterministic(train.deterministic)


def build(config: Config) -> Experiment:
    """Make the objects of a checked configuration, seeded.

    Raises:
        ConfigError: a factory refuses its arguments; all that do are named.
    """
    train = config.train
    set_up_torch(train)
    task = build_task(config.task, batch_size=train.batch_size, seed=config.seed)
    clock = Clock(train.batch_size, task.examples.get("train"))
    clock = clock._replace(total_steps=to_steps(train.duration, clock))
    plan = build_plan(train, task, clock)
    provided = {
        "base_lr": config.scaled_optimizer.lr,
        "seed": config.seed,
        "prior_entropy": task.prior_entropy,
        "clip_norm": train.clip_norm,
        "optimizer_settings": Settings(locate(config.optimizer.target), config.optimizer.arguments),
    }
    problems: list[Problem] = []
    parts: dict[str, Any] = {}
    try:
        declared = build_schedules(config, clock)
        clock = declared.clock
    except ConfigError as error:
        problems += error.problems
    nodes: dict[str, Node] = {"param_groups": config.param_groups, "clip": config.clip}
    nodes |= {f"detectors.{name}": node for name, node in config.detectors.items()}
    nodes |= {f"remedies.{name}": node for name, node in config.remedies.items()}
    for key, node in nodes.items():
        try:
            parts[key] = make(key, node, clock, provided)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    model, initial_weights = _tried_model(config, task, plan)
    groups = _groups(config.param_groups, parts["param_groups"], model)
    place = "param_groups.rules.{}.schedule" if "rules" in config.param_groups.arguments else "param_groups"
    own = {group.name: group.schedule for group in groups if group.schedule is not None}
    declared = declared.with_groups(own, keys={name: place.format(name) for name in own})
    groups = with_adamw_lr(groups, config.optimizer.lr, config.optimizer.arguments.get("adamw_lr"))
    optimizer = build_optimizer(config.scaled_optimizer, groups, plan.device)
    for hyperparameter in declared.others:
        keep_initial(optimizer, hyperparameter)
    watch = Watch(_named(parts, "detectors"), _named(parts, "remedies"))
    plan = replace(plan, snapshots=build_snapshots(config.snapshots, watch.keeps, clock))
    return Experiment(
        task=task,
        model=model,
        optimizer=optimizer,
        schedules=_by_group(groups, optimizer, declared),
        plan=plan,
        watch=watch,
        declared=declared,
        remarks=list(_remarks(config, task, model, optimizer, watch)),
        meters=build_meters(config, watch.needs, clock),
        clipping=parts["clip"],
        initial_weights=initial_weights,
    )


def _remarks(config: Config, task: Task, model: nn.Module, optimizer: Optimizer, watch: Watch) -> Iterator[str]:
    """Yield what the user should know of the objects that were made."""
    yield from (*task.remarks, *_continued(checkpoint_source(config.resume), optimizer))
    yield from unmeasured(asked_for(watch.detectors), task, model, optimizer)
    yield from silent_detectors(config, watch.detectors, splits=task.examples, prior_entropy=task.prior_entropy)


def _continued(source: Path | None, optimizer: Optimizer) -> Iterator[str]:
    """Check that an optimizer can go on from a checkpoint; yield what it has to do without.

    Raises:
        ConfigError: its parameter groups are others, so that momenta would reach the wrong parameters.
    """
    if source is None:
        return
    saved, name = read_checkpoint(source, mmap=True), type(optimizer).__name__
    if (other := saved["optimizer_class"]) != name:
        yield f"resume.from: the run was trained with {other}, so {name} takes its weights and begins without a state."
    elif difference := other_groups(saved["optimizer"], optimizer):
        rule = f"must be those of the run that goes on, but {difference}"
        fix = "Leave param_groups out, or begin a new run with its weights: task.init_from in place of resume.from"
        raise ConfigError([Problem("param_groups", rule, fix)])


def _by_group(groups: list[Group], optimizer: Optimizer, schedules: RunSchedules) -> Schedules:
    """Return (group, hyperparameter) -> factor; groups without a schedule of their own share the run's."""
    shared = schedules.lr()
    whole = {group.name: schedules.lr(group.name) if group.name in schedules.groups else shared for group in groups}
    lrs = {(group.name, "lr"): zero_while_frozen(whole[group.name], group.frozen_steps) for group in groups}
    made = optimizer.param_groups
    has = {group["name"]: [name for name in schedules.others if f"initial_{name}" in group] for group in made}
    return {**lrs, **{(group, name): schedules.others[name] for group, names in has.items() for name in names}}


def _groups(node: Node, grouping: Any, model: nn.Module) -> list[Group]:
    """Return the parameter groups of a model; a grouping of the user's own may fail in any way."""
    if not callable(grouping):
        rule = f"must make a function of the model, got {type(grouping).__name__}"
        raise ConfigError([Problem("param_groups", rule, "Leave param_groups._target_ out, or see param_groups=all")])
    try:
        return make_groups(grouping, model)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(refusals("param_groups", node, error)) from error


def _tried_model(config: Config, task: Task, plan: TrainPlan) -> tuple[nn.Module, InitialWeights | None]:
    """Make the model, seeded and on its device, and try it on a few examples."""
    seed_everything(config.seed)
    with in_use(task):
        model, initial_weights = build_model(config, task)
        model.to(plan.device)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            count = sum(parameter.numel() for parameter in model.parameters())
            rule = f"must have a parameter that is trained, got none among {count:,}"
            raise ConfigError([Problem("task.model", rule, "Unfreeze some, or choose another model")])
        with_metrics = bool(config.task.arguments.get("metrics"))
        probe(task, model, plan, batch_size=config.train.batch_size, with_metrics=with_metrics)
    return model, initial_weights


def build_model(config: Config, task: Task) -> tuple[nn.Module, InitialWeights | None]:
    """Make the model, with the weights of `task.init_from`; a run that goes on has its own.

    Raises:
        ConfigError: the weights, or those of the checkpoint to go on from, do not fit.
    """
    model = task.model()
    source, begin = checkpoint_source(config.resume), config.task.init_from
    if source is not None:
        if misfit := find_misfit(source, model):
            rule = f"must fit the model, but {misfit}"
            raise ConfigError([Problem("resume.from", rule, "Go on with the model that it was trained with")])
        return model, None
    if begin is None:
        return model, None
    try:
        return model, load_initial_weights(begin, model)
    except CheckpointError as error:
        raise ConfigError(
            [Problem("task.init_from", str(error), "Give finite weights of a model like this one")]
        ) from None


def build_plan(train: Train, task: Task, clock: Clock) -> TrainPlan:
    """Resolve every duration of the training section to steps."""
    stop = train.early_stop
    return TrainPlan(
        steps=to_steps(train.duration, clock),
        accumulate=train.accumulate,
        clip_norm=train.clip_norm,
        precision=train.precision,
        device=find_device(train.device),
        compile=train.compile,
        eval_every=None if train.eval_every is None else to_steps(train.eval_every, clock),
        checkpoint_every=None if train.checkpoint_every is None else to_steps(train.checkpoint_every, clock),
        watch_every=train.watch_every,
        max_seconds=train.max_seconds,
        metric=stop.metric,
        goal=task.goals.get(stop.metric, "min"),
        patience=stop.patience,
        min_delta=stop.min_delta,
        ema_decay=train.ema_decay,
        refresh_batches=train.refresh_batches,
    )


def _named(parts: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {key.partition(".")[2]: part for key, part in parts.items() if key.startswith(f"{group}.")}
