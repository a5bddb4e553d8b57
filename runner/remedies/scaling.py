"""The action that sets the learning rate, put into words."""

from __future__ import annotations

from runner.records import Action, Alarm
from runner.remedies.protocol import History


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
