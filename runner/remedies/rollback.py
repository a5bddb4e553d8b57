"""Go back to weights of some steps ago, and reduce the learning rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call

from runner.durations import StepsOrZero
from runner.records import Action, Alarm
from runner.remedies.protocol import SNAPSHOTS, History
from runner.remedies.reduce_lr import ReduceLR


class Rollback(ReduceLR):
    """At each alarm of its detectors go on from earlier weights, with an empty optimizer state and a lower rate.

    lr_scale <- max(factor * lr_scale, min_scale)
    The weights are those of the second-newest snapshot from before the trouble began, or of the only one: the newest
    may already be spoilt. The step stays, so the batches in between are not seen again.

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        factor: on the learning rate; in (0, 1).
        min_scale: lowest share of the scheduled rate; in [0, 1].
        eps: a smaller change of lr_scale is not made; >= 0.
        max_cuts: cuts for these detectors, by any remedy, after which it makes no more; None where a rung bounds it.
        rewarm: optimizer steps over which the learning rate rises anew; 0 starts at its full height.
    Source: rewinding as in PaLM, arXiv:2204.02311, section 5.1, with a cut of the learning rate.
    """

    needs = frozenset({SNAPSHOTS})

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("non_finite", "divergence"),
        factor: Annotated[float, Gt(0), Lt(1)] = 0.5,
        min_scale: Annotated[float, Ge(0), Le(1)] = 0.0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        max_cuts: Annotated[int, Ge(1)] | None = 5,
        rewarm: StepsOrZero = 0,
    ) -> None:
        super().__init__(detectors=detectors, factor=factor, min_scale=min_scale, eps=eps, max_cuts=max_cuts)
        self.rewarm = rewarm

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Rollback, or None when nothing is left to cut or no weights are kept."""
        cut, to_step = super().propose(alarm, history), self._to_step(alarm, history.snapshots)
        if cut is None or to_step is None:
            return None
        which = f"weights of step {to_step:,}" if to_step else "initial weights"
        rising = f", rising over {self.rewarm:,} steps" if self.rewarm else ""
        arguments = {**cut.arguments, "to_step": to_step, **({"rewarm_steps": self.rewarm} if self.rewarm else {})}
        message = f"{which}, empty optimizer state, {cut.message}{rising}"
        return replace(cut, type="Rollback", arguments=arguments, message=message)

    def _to_step(self, alarm: Alarm, snapshots: tuple[int, ...]) -> int | None:
        return before_the_trouble(alarm, snapshots)


def before_the_trouble(alarm: Alarm, snapshots: tuple[int, ...]) -> int | None:
    """Return the second-newest snapshot that is older than what the alarm tells of, or the oldest; None without any.

    An alarm that has lasted for some steps says so in its evidence, as "steps".
    """
    began = alarm.step - int(alarm.evidence.get("steps", 0))
    older = [step for step in snapshots if step <= began] or list(snapshots[:1])
    return older[-2:][0] if older else None
