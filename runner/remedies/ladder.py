"""Remedies one after the other, each a bounded number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import ConfigDict, SkipValidation, validate_call

from runner.durations import StepsOrZero
from runner.records import Action, Alarm
from runner.remedies.protocol import URGENT, History, Remedy

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True)


class Rung:
    """A remedy with a bounded number of attempts.

    Args:
        remedy: what it asks for.
        attempts: actions after which it passes on; 1 to 1000 on a page.
    """

    @validate_call(config=_ARBITRARY)
    def __init__(self, *, remedy: SkipValidation[Remedy], attempts: Annotated[int, Ge(1)]) -> None:
        self.remedy = remedy
        self.attempts = attempts


class Ladder:
    """Ask rung after rung; one that has used its attempts passes on.

    After an action nothing is judged for `rest` steps: alarms of the detectors that the rungs answer are not raised,
    except those of `urgent`.

    Args:
        rungs: name -> rung, in order.
        rest: optimizer steps after an action.
        urgent: names of detectors whose alarms count at once.
    """

    @validate_call(config=_ARBITRARY)
    def __init__(
        self,
        *,
        rungs: Annotated[Mapping[str, SkipValidation[Rung]], MinLen(1)],
        rest: StepsOrZero = 5,
        urgent: tuple[str, ...] = URGENT,
    ) -> None:
        self.rungs = dict(rungs)
        self.rest = rest
        self.urgent = urgent
        remedies = [rung.remedy for rung in self.rungs.values()]
        self.needs = frozenset[str]().union(*(getattr(remedy, "needs", ()) for remedy in remedies))
        self.detectors = tuple(dict.fromkeys(name for remedy in remedies for name in getattr(remedy, "detectors", ())))

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return the action of the first rung that has one, under its name behind that of the ladder."""
        for name, rung in self.rungs.items():
            by = f"{history.name}/{name}"
            if sum(action.remedy == by for action in history.actions) >= rung.attempts:
                continue
            action = rung.remedy.propose(alarm, history)
            if action is not None:
                return replace(action, remedy=by)
        return None

    def rests(self, alarm: Alarm, history: History) -> bool:
        """Return whether the ladder has acted less than `rest` steps ago, and on something that is judged slowly."""
        if alarm.detector in self.urgent or alarm.detector not in self.detectors:
            return False
        steps = (action.step for action in reversed(history.actions) if action.remedy.startswith(f"{history.name}/"))
        latest = next(steps, None)
        return latest is not None and alarm.step <= latest + self.rest
