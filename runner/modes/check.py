"""mode=check: a dry run. What the run is, what it will take, and what is odd about it; nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from annotated_types import Ge, Le

from runner import lint
from runner.bracket import upper_bracket
from runner.build import Experiment, build, checkpoint_source, hardware
from runner.config import Config, Invocation
from runner.durations import Clock
from runner.estimate import Memory, Pace, Stopwatch, WeighedCheckpoints, memory, planned, trial_plan
from runner.group_table import group_table
from runner.optim.readout import lr_rules
from runner.provenance import lr_provenance
from runner.rates import landmarks, plan_of_experiment, rate_table
from runner.records import StepRecord
from runner.scan import looked_at
from runner.tasks.closing import in_use
from runner.tasks.described import listed
from runner.tracking.tables import duration, print_table, size
from runner.train.loop import fit
from runner.train.saved import steps_made
from runner.train.state import TrainState
from runner.train.step import compiled, evaluate
from runner.trends import has_exploded

EVALUATED_BATCHES = 10
ONCE_VARIES = 1.2  # what happens once, imports above all, takes longer or shorter by this factor


class Trial(NamedTuple):
    """What the trial steps have shown.

    Attributes:
        start: updates made before, by the run to go on with.
        pace: seconds a step.
        evaluation_seconds: one evaluation of the val split; 0 without one.
        first_evaluation_seconds: what the first takes more.
        checkpoints: size and seconds of one.
        memory: bytes.
        state: how the trial ended.
        losses: one a step.
    """

    start: int
    pace: Pace
    evaluation_seconds: float
    first_evaluation_seconds: float
    checkpoints: WeighedCheckpoints
    memory: Memory
    state: TrainState
    losses: list[float]

    @property
    def is_cut_short(self) -> bool:
        """Whether the trial diverged, so that it knows no time and no checkpoint."""
        return self.state.status == "diverged"


def run(config: Config, invocation: Invocation, *, steps: Annotated[int, Ge(2), Le(10_000)] = 20) -> None:
    """Build everything, make `steps` real steps on weights that are thrown away, and print what is known then.

    Args:
        config: checked.
        invocation: names the task.
        steps: optimizer steps of the trial.

    Raises:
        RunnerError: the run cannot be made.
    """
    experiment = build(config)
    name, machine = config.name or invocation.choices["task"], hardware(experiment.plan)
    print(f"{name}: dry run on {machine['device']}, {machine['threads']} threads", flush=True)
    _show_model(experiment)
    print(f"learning rate: {lr_provenance(config, invocation, experiment.optimizer.param_groups)['in_words']}")
    _show_learning_rate(experiment)
    if (bracket := upper_bracket(config, experiment)) is not None:
        print(bracket.text)
    _show_data(experiment, config.train.batch_size)
    trial = _try(config, experiment, steps)
    _show_cost(experiment, trial)
    problems = [
        *lint.warnings(config, plan_of_experiment(experiment)),
        *experiment.remarks,
        *_still_frozen(experiment, trial),
    ]
    if trial.is_cut_short:
        cause = "; no update was made yet, so it is not the learning rate" if trial.state.step == trial.start else ""
        problems.append(f"the trial {trial.state.verdict}{cause}")
    elif has_exploded(trial.losses):
        rise = f"from {trial.losses[0]:.4g} to {trial.losses[-1]:.4g} in {len(trial.losses)} steps"
        problems.append(f"optimizer.lr: the loss of the trial rose {rise}. Try a rate ten times lower.")
    for text in problems:
        print(f"warning {text}")
    if trial.is_cut_short:
        print("estimate: unknown, as the trial diverged", flush=True)
        return
    low, high = _total_seconds(experiment, trial)
    limit = config.train.max_seconds
    cut = f", and train.max_seconds ends it after {duration(limit)}" if limit is not None and high > limit else ""
    print(f"estimate: {duration(low)} to {duration(high)} of training{cut}", flush=True)


def _still_frozen(experiment: Experiment, trial: Trial) -> list[str]:
    """Say that the trial did not train all that the run will."""
    made = trial.state.step
    names = [group["name"] for group in experiment.optimizer.param_groups if group["frozen_steps"] >= made > 0]
    text = "param_groups: {} did not train yet in the trial; steps get slower and the optimizer's state larger later."
    return [text.format(listed(names))] if names else []


def _try(config: Config, experiment: Experiment, steps: int) -> Trial:
    """Make the trial steps and a part of an evaluation."""
    task, model, plan = experiment.task, experiment.model, experiment.plan
    source = checkpoint_source(config.resume)
    checkpoints = WeighedCheckpoints(Path(os.devnull), source=source)
    watch = Stopwatch(steps, watch_every=plan.watch_every)
    losses: list[float] = []
    state = fit(
        **experiment._replace(plan=trial_plan(plan)).parts(),
        checkpoints=checkpoints,
        on_record=lambda record: losses.append(record.loss) if isinstance(record, StepRecord) else None,
        interrupted=watch,
    )
    evaluation = first = 0.0
    if "val" in task.examples:
        batches = Clock(config.train.batch_size, task.examples["val"]).steps_per_epoch
        some = min(batches, EVALUATED_BATCHES)
        model.eval()
        apply = compiled(model, plan)
        with in_use(task):
            once = _timed(lambda: evaluate(task, apply, plan, "val", batches=1))
            part = _timed(lambda: evaluate(task, apply, plan, "val", batches=some))
        evaluation, first = part * batches / some, max(0.0, once - part / some)
    held = memory(model, experiment.optimizer, plan.device)
    made = steps_made(source) if source is not None else 0
    return Trial(made, watch.pace(), evaluation, first, checkpoints, held, state, losses)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _total_seconds(experiment: Experiment, trial: Trial) -> tuple[float, float]:
    """Return a range: fast steps and few checkpoints, to slow steps and a new best at every evaluation."""
    pace, steps = trial.pace, experiment.plan.steps - trial.start
    evaluations, checkpoints = _evaluations(experiment, trial.start), _checkpoints(experiment, trial.start)
    once = pace.warmup + (trial.first_evaluation_seconds if evaluations else 0.0)
    evaluating, each = evaluations * trial.evaluation_seconds, trial.checkpoints.seconds
    low = once / ONCE_VARIES + evaluating + steps * pace.fast + checkpoints * each
    high = once * ONCE_VARIES + evaluating + steps * pace.slow + (checkpoints + evaluations) * each
    return low, high


def _evaluations(experiment: Experiment, start: int) -> int:
    plan = experiment.plan
    return planned(plan.eval_every, start, plan.steps) if "val" in experiment.task.examples else 0


def _checkpoints(experiment: Experiment, start: int) -> int:
    return planned(experiment.plan.checkpoint_every, start, experiment.plan.steps)


def _show_model(experiment: Experiment) -> None:
    total = sum(parameter.numel() for parameter in experiment.model.parameters())
    trained = sum(parameter.numel() for parameter in experiment.model.parameters() if parameter.requires_grad)
    if experiment.initial_weights is not None:
        print(experiment.initial_weights)
    print(f"parameters: {total:,}, {trained:,} of them trained")
    print_table(*group_table(experiment.model, experiment.optimizer, _peak(experiment)))
    for text in lr_rules(experiment.optimizer):
        print(text)


def _peak(experiment: Experiment) -> dict[str, float]:
    """Return group -> largest factor of its schedule."""
    steps = looked_at(experiment.plan.steps, experiment.declared.warmup.steps)
    names = [group["name"] for group in experiment.optimizer.param_groups]
    return {name: max(map(experiment.schedules[(name, "lr")], steps)) for name in names}


def _show_learning_rate(experiment: Experiment) -> None:
    plan = plan_of_experiment(experiment)
    inside = {step: why for step, why in landmarks(plan).items() if step < plan.steps}
    print_table(*rate_table({plan.name(rate): rate for rate in plan.lrs}, inside, digits=4))


def _show_data(experiment: Experiment, batch_size: int) -> None:
    task, steps = experiment.task, experiment.plan.steps
    length = f"steps: {steps:,}, warmup {experiment.declared.warmup.steps:,}"
    if task.examples:
        an_epoch = Clock(batch_size, task.examples["train"]).steps_per_epoch
        length += f"; {an_epoch:,} an epoch, {steps / an_epoch:.4g} epochs"
        prior = f"; prior entropy {task.prior_entropy:.4f} nats" if task.prior_entropy is not None else ""
        print("data: " + ", ".join(f"{split} {count:,}" for split, count in task.examples.items()) + prior)
    print(length)


def _show_cost(experiment: Experiment, trial: Trial) -> None:
    held, pace = trial.memory, trial.pace
    evaluations, checkpoints = _evaluations(experiment, trial.start), _checkpoints(experiment, trial.start)
    best = f" and up to {evaluations:,} of a new best" if evaluations else ""
    each = "" if trial.is_cut_short else f", {size(trial.checkpoints.bytes)} each"
    print(f"evaluations: {evaluations:,}; checkpoints: {checkpoints:,}{best}{each}")
    average = f"their average {size(held.weights)}, " if experiment.plan.ema_decay is not None else ""
    print(
        f"memory: weights {size(held.weights)}, {average}gradients {size(held.gradients)}, optimizer state "
        f"{'unknown' if trial.is_cut_short else size(held.optimizer)}; peak of {held.place} {size(held.peak)}"
    )
    if trial.is_cut_short:
        return
    print(
        f"time: {duration(pace.typical)} a step ({duration(pace.fast)} to {duration(pace.slow)}), "
        f"{duration(trial.evaluation_seconds)} an evaluation, {duration(trial.checkpoints.seconds)} a checkpoint; "
        f"once {duration(pace.warmup + trial.first_evaluation_seconds)}"
    )
