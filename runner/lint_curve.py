"""What is allowed but odd about a learning rate, found in its values step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.build_schedules import RunSchedules
from runner.config import Config
from runner.scan import furthest
from runner.schedules.shape import Schedule

MUCH = 1.25  # ratio from which two rates differ visibly
_HIGH = 0.1  # share of the peak that is no low end
_ROUNDING = 1e-12
_NOTHING = 1e-6  # share of the peak that changes next to nothing
RUN = "schedule"  # what messages call that of the run
_MADE_TO_EXCEED = ("runner.schedules.ramps.range_test", "runner.schedules.tables.chebyshev")
_LOW = 0.4  # share of the base rate that is far below it; half_cosine has its peak at 0.5
_TOP = 0.99  # share of the peak that is as good as the peak
_SHORT = 10  # steps of a run in which rises and cycles are no matter of shares
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
    if end <= max(MUCH * values[lowest], _HIGH * top):
        return ""
    low = _next_low(factor, total)
    low = None if low is None or factor(low) > max(MUCH * values[lowest], _HIGH * top) else low  # held where it is cut
    fits = f"It is low again after {low:,} steps" if low is not None else "It stays there"
    return (
        f"rises again, from {course.lr(values[lowest])} at step {course.steps[lowest]:,} "
        f"to {course.lr(values[-1])} at the last step {total - 1:,}. {fits}; let the run and its cycles end together."
    )


def _cut_cycle(course: Course) -> str:
    """Say that a cycle is cut while it falls: what rises again later was meant to be low where the run ends."""
    factor, total, last = course.factor, course.total_steps, course.factors[-1]
    if total < _SHORT or last <= _HIGH * max(course.factors) or not factor(total) < last:
        return ""
    low = _next_low(factor, total)
    if low is None or not factor(low) < min(last / MUCH, factor(low + 1)):  # what falls on and on is no cycle
        return ""
    return (
        f"is still falling, at {course.lr(last)}, when the run ends after {total:,} steps. Its cycle ends after "
        f"{low:,}; let the run and its cycles end together."
    )


def _late_peak(course: Course) -> str:
    """Say that a schedule with a rise of its own spends more than half of the run on it."""
    total, top = course.total_steps, max(course.factors)
    step = next(s for s, factor in zip(course.steps, course.factors, strict=True) if factor >= _TOP * top)
    of_warmup = 2 * course.schedules.warmup.steps > total
    if total < _SHORT or of_warmup or 2 * step <= total + 2 or _is_made_to_exceed(course):
        return ""
    return f"rises until step {step:,} of {total:,}, so the run hardly learns at its rate. Let it rise in less."


def _below_base(course: Course) -> str:
    """Say that the rate stays far below the one that was set: a rise that is meant for a longer run."""
    top = max(course.factors)
    if course.name != RUN or top >= _LOW or course.total_steps < _SHORT:
        return ""
    return (
        f"never gets near optimizer.lr={course.peak_lr:g}: it is at most {course.lr(top)}. Let it rise in fewer steps, "
        f"or set optimizer.lr={course.lr(top)} if that was meant."
    )


def _is_made_to_exceed(course: Course) -> bool:
    return course.name == RUN and course.config.schedule.target in _MADE_TO_EXCEED


def _next_low(factor: Schedule, total_steps: int) -> int | None:
    """Return the first step from the end on at which the factor has stopped falling, after it has risen."""
    step, last = total_steps - 1, furthest(total_steps)
    while step < last and factor(step + 1) >= factor(step):
        step += 1
    while step < last and factor(step + 1) < factor(step):
        step += 1
    return step if step < last else None


def ends_early(course: Course) -> str:
    """Say that cycles or periods end before the run does: what is left of it runs at the floor."""
    if course.name != RUN:
        return ""
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
    if since is None or since == 0 or ends_early(course):
        return ""
    if course.factor(since - 1) < _ROUNDING:  # a smooth end of a very long run, rounded to 0
        return ""
    if since == total - 1:
        inclusive = course.name == RUN and course.config.schedule.end == "inclusive"
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
    since = high[-1]
    while since < course.total_steps and course.factor(since) >= least:
        since += 1
    if course.factors[-1] in (0.0, max(course.factors)) or 4 * since > 3 * course.total_steps:
        return ""
    return (
        f"is below a millionth of its peak from step {since:,} of {course.total_steps:,}, so the rest of the run "
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
    top, is_of_run = max(course.factors), course.name == RUN
    base = f"{'optimizer.lr=' if is_of_run else 'its base '}{course.peak_lr:g}"
    if top <= 1.0 + 1e-9 or _is_made_to_exceed(course):
        return ""
    step = course.steps[course.factors.index(top)]
    if course.factors[-1] >= _TOP * top and course.factors[0] < course.factors[-1]:
        return (
            f"ends at {course.lr(course.factors[-1])}, above {base}, so it "
            f"does not fall. Lower the floor, such as eta_min, below that."
        )
    return (
        f"peaks at {course.lr(top)} in step {step:,}, {top:.3g} times {base}. "
        f"Divide that by {top:.3g} if it was meant to be the peak."
    )


OF_CURVE: tuple[Callable[[Course], str], ...] = (
    _jump_after_rise,
    _rises_at_the_end,
    _cut_cycle,
    _late_peak,
    _below_base,
    _learns_nothing_first,
    _learns_nothing_last,
    _hardly_learns,
    _above_base,
)
