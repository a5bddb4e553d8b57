"""Shows each record to every detector and asks the remedies what to do: live, in lanes and on a CSV alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.detectors.protocol import Detector
from runner.records import Action, Alarm, EvalRecord, StepRecord
from runner.remedies.protocol import History, Remedy

_URGENCY = {"stop": 0, "warn": 1, "info": 2}

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
        """Return the state after the record, and the alarms it sets off, each under its detector's name here."""
        after: WatchState = {}
        alarms: tuple[Alarm, ...] = ()
        for name, detector in self.detectors.items():
            after[name], alarm = detector.update(state[name], record)
            if alarm is not None:
                alarms = (*alarms, replace(alarm, detector=name))
        return after, alarms

    def decide(self, alarms: tuple[Alarm, ...], history: History) -> tuple[Action, Alarm] | None:
        """Return what to do and the alarm that it answers, or None to go on as planned.

        The most severe alarm is put to the remedies first; an action carries its remedy's name here and its cause.
        """
        for alarm in sorted(alarms, key=lambda alarm: _URGENCY[alarm.severity]):
            for name, remedy in self.remedies.items():
                action = remedy.propose(alarm, history)
                if action is not None:
                    return replace(action, remedy=name, cause=(alarm.detector, alarm.step)), alarm
        return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
