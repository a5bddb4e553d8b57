"""mode=calibrate: short trials that find the shortest safe warmup and a threshold for clipping, as overrides."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le, MinLen

from runner import calibration
from runner.build import build
from runner.calibration import Calibration, Trial
from runner.checks.remedies import FIXED
from runner.checks.watch import in_short
from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem, RunnerError
from runner.estimate import WeighedCheckpoints, trial_plan
from runner.nodes import Node, option_names
from runner.rates import plan_of
from runner.records import Alarm, Record, StepRecord, spell_non_finite
from runner.remedies.stop import Stop
from runner.report.calibration_figure import calibration_figure
from runner.tracking.directory import output_directory, write_whole
from runner.tracking.tables import print_table, rounded
from runner.train.loop import fit
from runner.watch import Watch

REPORT, PICTURE = "calibration.json", "calibration.png"
_ALARM, _SATURATION = "clip_saturation", "runner.detectors.clip_saturation.ClipSaturation"
_WITHOUT, _LINEAR = "runner.schedules.warmups.none", "runner.schedules.warmups.linear"


def run(
    config: Config,
    invocation: Invocation,
    *,
    seeds: Annotated[int, Ge(1), Le(100)] = 1,
    warmups: Annotated[list[Annotated[int, Ge(0)]], MinLen(2)] | None = None,
    directory: Annotated[str, MinLen(1)] | None = None,
) -> None:
    """Try the first stretch of the run with several warmups, then with clipping; print overrides, last the directory.

    Args:
        config: checked.
        invocation: how the program was called.
        seeds: trials a warmup.
        warmups: lengths to try, optimizer steps.
        directory: where report and picture go; None for a new one.

    Raises:
        ConfigError: the run is too short, or a warmup too long for it.
        RunnerError: the run cannot be made, or the files cannot be written.
    """
    total = plan_of(config).steps
    lengths = _lengths(warmups, total)
    steps = min(calibration.trial_steps(lengths), total)
    trials: list[Trial] = []
    for length in lengths:
        for seed in range(config.seed, config.seed + seeds):
            trials.append(_try(config, length, seed, steps=steps, clip_norm=config.train.clip_norm))
            if not config.quiet:
                print(f"warmup {length:,}, seed {seed}: {_ending(trials[-1])}", flush=True)
    clipped: list[Trial] = []
    found = _judge(config, trials, clipped, steps=steps)
    _show(config, found, trials, total=total)
    place = _write(config, invocation, found, {"warmup": trials, "clipped": clipped}, directory)
    print(place, flush=True)


def _lengths(warmups: Sequence[int] | None, total: int) -> list[int]:
    """Return the warmups to try, shortest first."""
    if total < calibration.FEWEST_STEPS:
        rule = f"must be at least {calibration.FEWEST_STEPS} optimizer steps to calibrate, got {total:,}"
        raise ConfigError([Problem("train.duration", rule, "Calibrate the run that you mean to make")])
    lengths = sorted(set(warmups)) if warmups is not None else calibration.warmups_to_try(total)
    if max(lengths) == 0 or max(lengths) > total // 3:
        rule = f"must have a longest warmup of 1 to {total // 3:,} steps, a third of the run, got {max(lengths):,}"
        raise ConfigError([Problem("mode.warmups", rule, "Set mode.warmups=null for 0 and T/10, T/100 ...")])
    return lengths


def _judge(config: Config, trials: Sequence[Trial], clipped: list[Trial], *, steps: int) -> Calibration:
    """Return what the trials tell; makes those with clipping, with the warmup that is safe."""
    made = sum(len(trial.losses) for trial in trials)
    warmup_steps = calibration.shortest_safe(trials)
    norms = calibration.norms_after_warmup(trials, warmup_steps) if warmup_steps is not None else []
    has_no_norm = config.clip.target != FIXED  # that clipping finds its own
    if warmup_steps is None or has_no_norm or len(norms) < calibration.FEWEST_STEPS // 10:
        return Calibration(warmup_steps, None, None, None, made)
    clip_norm = calibration.clip_threshold(norms)
    before = [trial for trial in trials if trial.warmup_steps == warmup_steps]
    clipped += [_try(config, warmup_steps, trial.seed, steps=steps, clip_norm=clip_norm) for trial in before]
    norms = calibration.norms_after_warmup(clipped, warmup_steps)
    share = sum(norm > clip_norm for norm in norms) / max(len(norms), 1)
    end, other = (sum(trial.end for trial in some) / len(some) for some in (before, clipped))
    made += sum(len(trial.losses) for trial in clipped)
    return Calibration(warmup_steps, clip_norm, share, (end - other) / abs(end) if end else 0.0, made)


def _try(config: Config, warmup_steps: int, seed: int, *, steps: int, clip_norm: float | None) -> Trial:
    """Make the first steps of the run with another warmup, on weights that are thrown away."""
    warmup = {"_target_": _LINEAR, "duration": warmup_steps} if warmup_steps else {"_target_": _WITHOUT}
    train = config.train.model_copy(update={"clip_norm": clip_norm})
    page = config.model_copy(update={"warmup": Node.model_validate(warmup), "seed": seed, "train": train})
    losses, norms, experiment = list[float](), list[float](), build(page)
    watch = Watch(experiment.watch.detectors, {"stop": Stop()})
    alarms: list[str] = []

    def on_record(record: Record) -> None:
        if isinstance(record, StepRecord):
            losses.append(record.loss)
            norms.append(record.grad_norm)
        elif isinstance(record, Alarm) and record.severity != "info":
            alarms.append(f"{record.detector}: {record.message}")

    state = fit(
        **experiment._replace(plan=trial_plan(experiment.plan), watch=watch).parts(),
        checkpoints=WeighedCheckpoints(Path(os.devnull)),
        on_record=on_record,
        interrupted=lambda: "the end of the trial" if len(losses) >= steps else None,
    )
    return Trial(warmup_steps, seed, tuple(losses), tuple(norms), tuple(alarms), state.status == "diverged")


def _ending(trial: Trial) -> str:
    if trial.stopped:
        return f"stopped at step {len(trial.losses) - 1:,}, {trial.alarms[-1]}"
    return f"loss {rounded(trial.end)} at the end of {len(trial.losses):,} steps"


def _show(config: Config, found: Calibration, trials: Sequence[Trial], *, total: int) -> None:
    """Print a row a trial, what it means, what it cost, and the overrides."""
    if not config.quiet:
        rows = [
            [
                f"{trial.warmup_steps:,}",
                f"{trial.seed}",
                "-" if trial.stopped else rounded(trial.end),
                "stopped" if trial.stopped else "safe" if calibration.is_safe(trial, trials) else "worse",
                f"{len(trial.alarms)}",
            ]
            for trial in trials
        ]
        print_table(["warmup", "seed", "loss at the end", "verdict", "alarms"], rows)
        for sentence in found.in_words():
            print(sentence)
        print(f"cost: {found.steps:,} steps, {found.steps / total:.2g} times the run")
    print(shlex.join(_overrides(config, found)), flush=True)


def _overrides(config: Config, found: Calibration) -> list[str]:
    d_coef, lr, lr_key = config.optimizer.d_coef, config.optimizer.lr, "optimizer.lr"
    if d_coef is not None:
        lr, lr_key = d_coef, "optimizer.d_coef"
    active = [name for name, node in config.detectors.items() if node.target == _SATURATION]
    alarm_key = f"detectors.{active[0] if active else _ALARM}.fraction"
    overrides = found.overrides(lr=lr, lr_key=lr_key, alarm_key=alarm_key)
    if active or found.clip_alarm is None:
        return overrides
    options = option_names("detector")
    listed = in_short([*(name for name in config.detectors if name in options), _ALARM])
    return [*overrides[:-1], f"detector=[{','.join(listed)}]", overrides[-1]]


def _write(
    config: Config,
    invocation: Invocation,
    found: Calibration,
    trials: dict[str, list[Trial]],
    directory: str | None,
) -> Path:
    """Write report and picture; return where they are."""
    name = config.name or invocation.choices["task"]
    place = output_directory(directory, key="mode.directory", experiment=f"{name}/calibrations")
    report = {"overrides": _overrides(config, found), **found.as_json(trials)}
    try:
        write_whole(place / REPORT, json.dumps(spell_non_finite(report), indent=1) + "\n")
        title = f"{name}: {invocation.choices['optimizer']} lr={config.optimizer.lr:g}"
        calibration_figure(trials["warmup"], found, place / PICTURE, title=title)
    except OSError as error:
        raise RunnerError(f"{place}: cannot be written ({error.strerror}). Give another mode.directory.") from None
    if not config.quiet:
        print(f"{place / REPORT}\n{place / PICTURE}")
    return place
