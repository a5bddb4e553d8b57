"""What is allowed but odd about the learning rate of a run, found in its values step by step.

Whatever a run cannot be wanted with is refused before (`check`, `check_schedules`). What stands here may be wanted, so
it is said by train, check and preview, and the run goes on. Most rules look at values, so that they hold for
schedules of the user's own as well; a few need the target's name, for a fix that names its keys (`_ends_early`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from runner import lint_page
from runner.build_schedules import RunSchedules
from runner.config import Config
from runner.durations import to_steps
from runner.rates import Plan
from runner.scan import furthest, looked_at
from runner.schedules.shape import Schedule
from runner.signatures import durations_of, filled_in, locate

_MUCH = 1.25  # ratio from which two rates differ visibly
_HIGH = 0.1  # share of the peak that is no low end
_ROUNDING = 1e-12
_NOTHING = 1e-6  # share of the peak that changes next to nothing
_RUN = "schedule"  # what messages call that of the run
_MADE_TO_EXCEED = ("runner.schedules.ramps.range_test", "runner.schedules.tables.chebyshev")
_JUMP = 1.1  # a fall from one step to the next that no smooth schedule makes


class Course(NamedTuple):
    """The learning rate of a run, or of a group with a schedule of its own.

    Attributes:
        name: what messages call its schedule.
        config: checked.
        schedules: factors of the run.
        body: its factor after the warmup.
        peak_lr: learning rate that the factor multiplies.
        factor: of the learning rate, without what is random in it.
        steps: that were asked, in order; the first and the last update are among them.
        factors: one a step asked.
    """

    name: str
    config: Config
    schedules: RunSchedules
    body: Schedule
    peak_lr: float
    factor: Schedule
    steps: Sequence[int]
    factors: Sequence[float]

    @property
    def total_steps(self) -> int:
        """Updates of the run."""
        return self.steps[-1] + 1

    def lr(self, factor: float) -> str:
        """Return a factor as a learning rate."""
        return f"{self.peak_lr * factor:.3g}"


def warnings(config: Config, plan: Plan) -> list[str]:
    """Return what is allowed but unusual, a sentence each.

    Args:
        config: checked.
        plan: what the run will use.
    """
    schedules = plan.declared
    course = _course(config, schedules)
    texts = [*lint_page.warnings(config, schedules.clock), *(rule(course) for rule in _OF_RUN), *_said(course)]
    for rate in plan.lrs:
        if rate.group in schedules.groups:
            own = _course(config, schedules, group=rate.group, peak_lr=rate.initial)
            texts += _said(own)
    return [text for text in texts if text]


def _said(course: Course) -> Iterator[str]:
    """Yield what is said of the learning rate of a run or of a group."""
    yield _double_warmup(course)
    yield from (f"{course.name}: the learning rate {said}" for rule in _OF_CURVE if (said := rule(course)))


def _course(config: Config, schedules: RunSchedules, *, group: str | None = None, peak_lr: float = 0.0) -> Course:
    nodes = config.overlays.values()
    is_random = ["seed" in filled_in(locate(node.target)).values() for node in nodes]
    calm = tuple(overlay for overlay, random in zip(schedules.overlays, is_random, strict=True) if not random)
    factor = schedules._replace(overlays=calm).lr(group)
    steps = looked_at(schedules.clock.total_steps or 1, schedules.warmup.steps)
    factors = [factor(step) for step in steps]
    if group is None:
        return Course(_RUN, config, schedules, schedules.body, config.scaled_optimizer.lr, factor, steps, factors)
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
    if not (turn > first and max(values) > _MUCH * first):
        return ""
    return f"warmup: the {course.name} rises by itself, and the warmup is multiplied with it. Set warmup=none."


def _jump_after_rise(course: Course) -> str:
    """Say that the rate falls at once where it stops rising: a decay that has run on while it was warmed up."""
    values = course.factors
    turn = next((i for i in range(len(values) - 1) if values[i + 1] < values[i]), 0)
    if turn == 0 or values[turn] <= values[0]:
        return ""
    begin, end = course.steps[turn - 1], min(course.steps[turn + 1], course.total_steps - 3)
    factor = course.factor
    peak = next((t for t in range(begin, end) if factor(t + 1) < factor(t)), 0)
    if peak == 0 or factor(peak) <= factor(peak - 1):  # a stair falls from where it was flat
        return ""
    top, after, later = factor(peak), factor(peak + 1), factor(peak + 2)
    if after <= 0 or later <= 0 or top < _JUMP * after or math.log(top / after) < 3 * abs(math.log(after / later)):
        return ""
    return (
        f"jumps from {course.lr(top)} at step {peak:,} to {course.lr(after)} at the next, "
        f"where its rise ends. Let the decay begin after the warmup."
    )


def _rises_at_the_end(course: Course) -> str:
    """Say that the run ends on a rise or on a cycle that is cut: the last weights are those of a high rate."""
    values, factor, total = course.factors, course.factor, course.total_steps
    top = max(values)
    after_top = range(values.index(top), len(values))
    lowest = min(after_top, key=lambda i: (values[i], -i))
    end = min(values[-1], factor(total))
    if end <= max(_MUCH * values[lowest], _HIGH * top):
        return ""
    low = _next_low(factor, total)
    low = None if low is None or factor(low) > max(_MUCH * values[lowest], _HIGH * top) else low  # held where it is cut
    fits = f"It is low again after {low:,} steps" if low is not None else "It stays there"
    return (
        f"rises again, from {course.lr(values[lowest])} at step {course.steps[lowest]:,} "
        f"to {course.lr(values[-1])} at the last step {total - 1:,}. {fits}; let the run and its cycles end together."
    )


def _next_low(factor: Schedule, total_steps: int) -> int | None:
    """Return the first step from the end on at which the factor has stopped falling, after it has risen."""
    step, last = total_steps - 1, furthest(total_steps)
    while step < last and factor(step + 1) >= factor(step):
        step += 1
    while step < last and factor(step + 1) < factor(step):
        step += 1
    return step if step < last else None


def _ends_early(course: Course) -> str:
    """Say that cycles or periods end before the run does: what is left of it runs at the floor."""
    name, total = course.config.schedule.target.rpartition(".")[2], course.total_steps
    end = course.factor(total)
    since = _since(course, end)
    if name not in ("wsd_s", "cosine_restarts") or since is None or since > total - 2 or course.config.overlays:
        return ""
    left = total - since
    key, fix = {
        "wsd_s": ("periods", f"Add a period of {left:,} steps, or lengthen the last by them"),
        "cosine_restarts": ("cycles", "Set schedule.first=null to have them fill the run, or schedule.cycles=null"),
    }[name]
    return (
        f"schedule.{key}: the last ends at step {since:,} of {total:,}, and the learning rate stays at "
        f"{course.lr(end)} for the other {left:,}. {fix}."
    )


def _learns_nothing_first(course: Course) -> str:
    """Say that the first update has rate 0, as in libraries whose warmup is t / W: it costs a batch and no more."""
    if course.factors[0] > 0:
        return ""
    return "is 0 in the first update, which changes nothing. A warmup here begins at 1 / W."


def _learns_nothing_last(course: Course) -> str:
    """Say that the run ends with updates of rate 0: one costs a batch, many are a run that is too long."""
    total, since = course.total_steps, _since(course, 0.0)
    if since is None or since == 0 or _ends_early(course):
        return ""
    if course.factor(since - 1) < _ROUNDING:  # a smooth end of a very long run, rounded to 0
        return ""
    if since == total - 1:
        inclusive = course.config.schedule.end == "inclusive"
        fix = "Set schedule.end=exclusive, or a floor." if inclusive else "End a step later, or at a floor."
        return f"is 0 in the last update, which changes nothing. {fix}"
    return (
        f"is 0 from step {since:,} on, so the last {total - since:,} updates change nothing. "
        f"Make the schedule longer or the run shorter."
    )


def _hardly_learns(course: Course) -> str:
    """Say that a good part of the run has next to no learning rate: an interval in steps that was meant in epochs."""
    least = _NOTHING * max(course.factors)
    high = [step for step, factor in zip(course.steps, course.factors, strict=True) if factor >= least]
    since = high[-1] + 1
    if course.factors[-1] in (0.0, max(course.factors)) or 4 * since > 3 * course.total_steps:
        return ""
    return (
        f"is below a millionth of its peak after step {since:,} of {course.total_steps:,}, so the rest of the run "
        "changes next to nothing. Let it fall more slowly, or to a floor."
    )


def _since(course: Course, value: float) -> int | None:
    """Return the first step from which the factor has this value up to the end of the run, None where it has not."""
    index = len(course.steps)
    while index and course.factors[index - 1] == value:
        index -= 1
    if index == len(course.steps):
        return None
    step = course.steps[index]
    while step and course.factor(step - 1) == value:
        step -= 1
    return step


def _above_base(course: Course) -> str:
    """Say that the rate goes above the one that was set: `optimizer.lr` is the peak of most schedules."""
    top, is_of_run = max(course.factors), course.name == _RUN
    base = f"{'optimizer.lr=' if is_of_run else 'its base '}{course.peak_lr:g}"
    if top <= 1.0 + 1e-9 or (is_of_run and course.config.schedule.target in _MADE_TO_EXCEED):
        return ""
    step = course.steps[course.factors.index(top)]
    if course.factors[-1] >= 0.99 * top and course.factors[0] < course.factors[-1]:
        return (
            f"ends at {course.lr(course.factors[-1])}, above {base}, so it "
            f"does not fall. Lower the floor, such as eta_min, below that."
        )
    return (
        f"peaks at {course.lr(top)} in step {step:,}, {top:.3g} times {base}. "
        f"Divide that by {top:.3g} if it was meant to be the peak."
    )


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


_OF_RUN: tuple[Callable[[Course], str], ...] = (_longer_horizon, _long_warmup, _ends_early, _cut_cooldown)
_OF_CURVE: tuple[Callable[[Course], str], ...] = (
    _jump_after_rise,
    _rises_at_the_end,
    _learns_nothing_first,
    _learns_nothing_last,
    _hardly_learns,
    _above_base,
)
