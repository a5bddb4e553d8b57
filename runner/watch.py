"""Shows each record to every detector and asks the remedies what to do: live, in lanes and on a CSV alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.detectors.protocol import Detector
from runner.records import Action, Alarm, EvalRecord, StepRecord
from runner.remedies.protocol import History, Remedy

WatchState = dict[str, Any]
"""name of the detector -> its state"""


class Watch:
    """The detectors and remedies of a run. It decides; it never acts.

    Args:
        detectors: by name, all shown every record.
        remedies: by name, asked in this order; the first answer counts.
    """

    def __init__(self, detectors: Mapping[str, Detector], remedies: Mapping[str, Remedy]) -> None:
        self.detectors = dict(detectors)
        self.remedies = dict(remedies)
        self.needs = frozenset[str]().union(*(detector.needs for detector in self.detectors.values()))

    def start(self) -> WatchState:
        """Return the state before the first record."""
        return {name: detector.init() for name, detector in self.detectors.items()}

    def restore(self, saved: Mapping[str, Any]) -> WatchState:
        """Return the state that `saved` (plain tuples or lists, as JSON and checkpoints keep them) stands for.

        A detector that was not there when it was saved starts afresh.
        """
        state = self.start()
        for name, fresh in state.items():
            if name in saved and len(saved[name]) == len(fresh):
                state[name] = type(fresh)(*(_tuples(value) for value in saved[name]))
        return state

    def observe(self, state: WatchState, record: StepRecord | EvalRecord) -> tuple[WatchState, tuple[Alarm, ...]]:
        """Return the state after the record, and the alarms it sets off."""
        after: WatchState = {}
        alarms: tuple[Alarm, ...] = ()
        for name, detector in self.detectors.items():
            after[name], alarm = detector.update(state[name], record)
            if alarm is not None:
                alarms = (*alarms, alarm)
        return after, alarms

    def decide(self, alarms: tuple[Alarm, ...], history: History) -> Action | None:
        """Return what to do, or None to go on as planned."""
        for alarm in alarms:
            for remedy in self.remedies.values():
                action = remedy.propose(alarm, history)
                if action is not None:
                    return action
        return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
