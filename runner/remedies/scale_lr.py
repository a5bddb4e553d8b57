"""The action that sets the learning rate, put into words."""

from __future__ import annotations

from collections.abc import Sequence

from runner.records import Action, Alarm
from runner.remedies.protocol import History


def changes(actions: Sequence[Action], *, lr_scale: float) -> dict[str, float]:
    """Count what became of the learning rate: cuts, raises, rollbacks (cuts too), lr_scale; {} when it was left.

    Args:
        actions: all of a run, oldest first.
        lr_scale: at the end.
    """
    found = [action for action in actions if "lr_scale" in action.arguments]
    if not found:
        return {}
    factors = [action.arguments["factor"] for action in found]
    return {
        "cuts": sum(factor < 1 for factor in factors),
        "raises": sum(factor > 1 for factor in factors),
        "rollbacks": sum(action.type == "Rollback" for action in found),
        "lr_scale": lr_scale,
    }


def scale_to(lr_scale: float, alarm: Alarm, history: History, *, remedy: str) -> Action:
    """Return a ScaleLR that answers an alarm.

    Args:
        lr_scale: product of the interventions from now on, unitless.
        alarm: what it answers.
        history: says what it was before.
        remedy: who asks.
    """
    factor = lr_scale / history.lr_scale
    message = f"learning rate x {factor:.4g}, now {lr_scale:.4g} of its schedule"
    arguments = {"factor": factor, "lr_scale": lr_scale}
    return Action(alarm.step, remedy, "ScaleLR", arguments, (alarm.detector, alarm.step), message)
