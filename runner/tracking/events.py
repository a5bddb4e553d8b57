"""Which alarms and actions of a run get a line of their own as it goes, and what that line says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import get_args

from rich.text import Text

from runner.records import Action, ActionType, Alarm

SECONDS_BETWEEN_LIKE_EVENTS = 1.0
_ALWAYS_SHOWN = 20  # actions of a remedy; ladders make fewer, and what acts at every evaluation would fill the screen
_FILE = "records.jsonl"


class Events:
    """Lines for alarms and actions, as they come.

    A detector may find something at every step: of its alarms one a second is shown. An action is shown with the alarm
    that it answers, the first 20 of each remedy at once and then one a second. All are in `records.jsonl`.

    Attributes:
        hidden: "alarms" and "actions" -> how many had no line.
    """

    def __init__(self) -> None:
        self.hidden = Counter[str]()
        self._waiting: list[Alarm] = []  # of the latest step, not shown
        self._next_of_its_kind: dict[str, float] = {}
        self._made = Counter[str]()

    def alarm(self, alarm: Alarm) -> Iterator[Text]:
        """Yield the line of an alarm, if it is time for one."""
        self._waiting = [other for other in self._waiting if other.step == alarm.step]
        if self._is_due(f"alarm {alarm.detector} {alarm.severity}"):
            yield _alarm_line(alarm)
        else:
            self.hidden["alarms"] += 1
            self._waiting.append(alarm)

    def action(self, action: Action, *, lr: float | None) -> Iterator[Text]:
        """Yield the line of an action after that of its alarm; `lr` is the learning rate of the step."""
        self._made[action.remedy] += 1
        is_due = self._is_due(f"action {action.remedy}")
        if not is_due and self._made[action.remedy] > _ALWAYS_SHOWN:
            self.hidden["actions"] += 1
            return
        for alarm in self._waiting:
            if (alarm.detector, alarm.step) == action.cause:
                self.hidden["alarms"] -= 1
                yield _alarm_line(alarm)
        self._waiting = [alarm for alarm in self._waiting if (alarm.detector, alarm.step) != action.cause]
        yield _action_line(action, lr)

    def _is_due(self, kind: str) -> bool:
        now = time.monotonic()
        if now < self._next_of_its_kind.get(kind, 0.0):
            return False
        self._next_of_its_kind[kind] = now + SECONDS_BETWEEN_LIKE_EVENTS
        return True


def count_by_type(interventions: Mapping[str, float]) -> str:
    """Return what remedies did as "6 Rollback, 1 Probe"; "" where they did nothing."""
    return ", ".join(f"{interventions[name]:,.0f} {name}" for name in get_args(ActionType) if interventions.get(name))


def not_shown(number: int) -> str:
    """Return where the events are that had no line."""
    return f"; {number:,} of them only in {_FILE}" if number else ""


def _alarm_line(alarm: Alarm) -> Text:
    label = ("info", "cyan") if alarm.severity == "info" else ("alarm", "yellow")
    return Text.assemble(label, f"  {alarm.message}")


def _action_line(action: Action, lr: float | None) -> Text:
    """Return "action Rollback at step 6 (heal/halve on divergence): ..., lr 0.5 to 0.25"."""
    why = f" on {action.cause[0]}" if action.cause else ""
    what = f": {action.message}" if action.message is not None else ""
    factor = action.arguments.get("factor")
    rates = f", lr {lr:.4g} to {lr * factor:.4g}" if lr is not None and factor is not None else ""
    return Text.assemble(
        ("action", "yellow"), f" {action.type} at step {action.step} ({action.remedy}{why}){what}{rates}"
    )
