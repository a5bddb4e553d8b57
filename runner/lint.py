"""What is allowed but odd about the learning rate of a run, found in its values step by step.

Whatever a run cannot be wanted with is refused before (`check`, `check_schedules`). What stands here may be wanted, so
it is said by train, check and preview, and the run goes on. Most rules look at values, so that they hold for
schedules of the user's own as well; a few need the target's name, for a fix that names its keys (`ends_early`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from runner import lint_page
from runner.build_schedules import RunSchedules
from runner.config import Config
from runner.durations import to_steps
from runner.lint_curve import MUCH, OF_CURVE, RUN, Course, ends_early
from runner.rates import Plan
from runner.scan import looked_at
from runner.signatures import durations_of, filled_in, locate


def warnings(config: Config, plan: Plan) -> list[str]:
    """Return what is allowed but unusual, a sentence each.

    Args:
        config: checked.
        plan: what the run will use.
    """
    schedules = plan.declared
    course = _course(config, schedules)
    texts = [*lint_page.warnings(config, schedules.clock), *(rule(course) for rule in _OF_RUN)]
    if any(rate.group not in schedules.groups for rate in plan.lrs):  # a group follows the schedule of the run
        texts += [*(rule(course) for rule in _OF_BODY), *_said(course)]
    for rate in plan.lrs:
        if rate.group in schedules.groups:
            own = _course(config, schedules, group=rate.group, peak_lr=rate.initial)
            texts += _said(own)
    return [text for text in texts if text]


def _said(course: Course) -> Iterator[str]:
    """Yield what is said of the learning rate of a run or of a group."""
    yield _double_warmup(course)
    yield from (f"{course.name}: the learning rate {said}" for rule in OF_CURVE if (said := rule(course)))


def _course(config: Config, schedules: RunSchedules, *, group: str | None = None, peak_lr: float = 0.0) -> Course:
    nodes = config.overlays.values()
    is_random = ["seed" in filled_in(locate(node.target)).values() for node in nodes]
    calm = tuple(overlay for overlay, random in zip(schedules.overlays, is_random, strict=True) if not random)
    factor = schedules._replace(overlays=calm).lr(group)
    steps = looked_at(schedules.clock.total_steps or 1, schedules.warmup.steps)
    factors = [factor(step) for step in steps]
    if group is None:
        return Course(RUN, config, schedules, schedules.body, config.scaled_optimizer.lr, factor, steps, factors)
    name, body = f"schedule of group {group}", schedules.groups[group]
    return Course(name, config, schedules, body, peak_lr, factor, steps, factors)


def _longer_horizon(course: Course) -> str:
    """Say where a schedule that is made for a longer run is cut off: a pilot of a long run may be wanted so."""
    horizon, total = course.config.schedule.horizon, course.total_steps
    made_for = to_steps(horizon, course.schedules.clock) if horizon is not None else total
    uncut = course.schedules._replace(overlays=()).lr()(total - 1)
    if made_for <= total or course.factors[-1] < uncut:  # a cooldown brings it to an end
        return ""
    return (
        f"schedule.horizon: the schedule is made for {made_for:,} steps and the run stops after {total:,}, at learning "
        f"rate {course.lr(course.factors[-1])}. Set schedule.horizon=null to have it come to its end."
    )


def _long_warmup(course: Course) -> str:
    """Say that more than half of the run is warmup: legal, and a sign of a length that was meant for a longer run."""
    length, total = course.schedules.warmup.steps, course.total_steps
    if 2 * length <= total or length < 2:
        return ""
    name = next(iter(durations_of(course.config.warmup)), "")
    fix = f" Set warmup.{name}=5% or a longer train.duration." if name else ""
    return f"warmup: it takes {length:,} of the {total:,} steps, so the run hardly learns at its rate.{fix}"


def _double_warmup(course: Course) -> str:
    """Say that a schedule that begins with a rise of its own is multiplied with a warmup; nobody declares two."""
    if course.config.warmup.target.endswith(".none"):
        return ""
    values = [course.body(step) for step in course.steps]
    first = values[0]
    turn = next((value for value in values if not math.isclose(value, first, rel_tol=1e-9)), first)
    if not (turn > first and max(values) > MUCH * first):
        return ""
    return f"warmup: the {course.name} rises by itself, and the warmup is multiplied with it. Set warmup=none."


def _cut_cooldown(course: Course) -> str:
    """Say that the run stops inside a cooldown that is laid over it."""
    clock, total = course.schedules.clock, course.total_steps
    for name, node in course.config.overlays.items():
        given = durations_of(node)
        if "begin" not in given:
            continue
        begin, duration = to_steps(given["begin"], clock), to_steps(given.get("duration", 0), clock)
        if begin < total < begin + duration:
            return (
                f"overlays.{name}: it ends at step {begin + duration:,} and the run after {total:,}, at learning rate "
                f"{course.lr(course.factors[-1])}. Set overlays.{name}.duration={total - begin}."
            )
        if begin >= total:
            return (
                f"overlays.{name}.begin: step {begin:,} is not within the run of {total:,}, so {name} has no effect. "
                f"Set overlays.{name}.begin={max(total - duration, 0) if duration else 0}."
            )
    return ""


_OF_RUN: tuple[Callable[[Course], str], ...] = (_long_warmup, _cut_cooldown)
_OF_BODY: tuple[Callable[[Course], str], ...] = (_longer_horizon, ends_early)
