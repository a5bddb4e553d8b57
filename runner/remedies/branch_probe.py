"""Try lower learning rates on copies, and go on with the best."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import validate_call

from runner.durations import Steps, StepsOrZero
from runner.records import Action, Alarm
from runner.remedies.protocol import INITIAL, History

FACTOR = "factor_"  # arguments of the action: factor_1, factor_2 ...
SCORE = "score_"  # arguments of one that is carried out: score_1, score_0.333 ...
LEAST_STEPS = 10  # of a branch: fewer say nothing


class BranchProbe:
    """At an alarm of its detectors train copies with the running learning rate and with lower ones, for a stretch.

    All branches begin with the same weights, see the same batches, rise over a short warmup and fall to 0. All are made
    twice, on other batches each time, and a third time where two leave it open. Their val losses decide (or those of
    the last steps), on a logarithmic scale: the running rate wins unless the best other one is better by more than `sd`
    standard deviations, see `runner.train.branches.compare`. When it wins the training goes on as if nothing had been:
    weights, optimizer and generators are those of before. This sees what no single curve shows: an Adam whose rate is
    too high.

    Args:
        detectors: names of the detectors whose alarms it answers, of any severity.
        factors: on the learning rate, beside the running one; each in (0, 1).
        stretch: optimizer steps of each branch.
        warmup: optimizer steps in which a branch rises.
        faster: what the learning rates of all branches, the running one's too, are multiplied with; >= 1, unitless.
            The best rate of a short training is higher than that of a long one: 1 / (share of the run) gives a branch
            as much learning rate x steps as the whole run has.
        repeats: how often each branch is made at most, every time on other batches; >= 2.
        judge: the split whose losses decide; "train" where the task has no val split. A rate that is too high may
            fit the training data as well as a good one.
        judged: losses that count: of so many last steps, or of at most so many batches of the val split; >= 2.
        sd: standard deviations of a difference of means over the repeats; >= 0.
        begin: where the branches begin: the weights of now ("here"), or the initial ones.
        go_on: when a lower rate wins, go on from where the branches began, or from where the winner ended ("branch").
        rewarm: optimizer steps over which the learning rate rises anew when the optimizer begins with an empty state.
        max_times: probes after which it makes no more; one in which no branch got to its end does not count.
    Source: experiments/rescue.
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("probe_due",),
        factors: Annotated[tuple[Annotated[float, Gt(0), Lt(1)], ...], MinLen(1)] = (0.333, 0.1),
        stretch: Steps = 100,
        warmup: StepsOrZero = 5,
        faster: Annotated[float, Ge(1)] = 10.0,
        repeats: Annotated[int, Ge(2)] = 3,
        judge: Literal["val", "train"] = "val",
        judged: Annotated[int, Ge(2)] = 20,
        sd: Annotated[float, Ge(0)] = 2.0,
        begin: Literal["here", "initial"] = "initial",
        go_on: Literal["begin", "branch"] = "begin",
        rewarm: StepsOrZero = 5,
        max_times: Annotated[int, Ge(1)] = 1,
    ) -> None:
        self.detectors = detectors
        self.needs = frozenset({INITIAL}) if begin == "initial" else frozenset[str]()
        self.max_times = max_times
        self.arguments: dict[str, float] = {
            **{f"{FACTOR}{number}": factor for number, factor in enumerate(factors, start=1)},
            "stretch": stretch,
            "warmup": warmup,
            "faster": faster,
            "repeats": repeats,
            "judged": judged,
            "on_val": float(judge == "val"),
            "sd": sd,
            "from_initial": float(begin == "initial"),
            "with_branch": float(go_on == "branch"),
            "rewarm": rewarm,
        }

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Probe; None for another detector's alarm, when all are used up, or without the initial weights."""
        if alarm.detector not in self.detectors or (INITIAL in self.needs and 0 not in history.snapshots):
            return None
        if sum(map(_has_told, history.actions)) >= self.max_times:
            return None
        return Action(alarm.step, "branch_probe", "Probe", self.arguments, (alarm.detector, alarm.step))


def _has_told(action: Action) -> bool:
    scores = [value for name, value in action.arguments.items() if name.startswith(SCORE)]
    return action.type == "Probe" and any(map(math.isfinite, scores))
