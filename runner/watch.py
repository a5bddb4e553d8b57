"""Shows each record to every detector and asks the remedies what to do: live, in lanes and on a CSV alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.detectors.milestone import Milestone
from runner.detectors.protocol import Detector
from runner.records import Action, Alarm, EvalRecord, StepRecord
from runner.remedies.protocol import History, Remedy, Resting

_URGENCY = {"stop": 0, "warn": 1, "info": 2}

WatchState = dict[str, Any]
"""name of the detector -> its state"""


class Watch:
    """The detectors and remedies of a run. It decides; it never acts.

    Args:
        detectors: by name, all shown every record.
        remedies: by name, asked in this order; the first answer counts.

    Attributes:
        needs: what the detectors read beyond the loss.
        keeps: which weights the remedies go back to.
    """

    def __init__(self, detectors: Mapping[str, Detector], remedies: Mapping[str, Remedy]) -> None:
        self.detectors = dict(detectors)
        self.remedies = dict(remedies)
        self._milestones = frozenset(name for name, found in self.detectors.items() if isinstance(found, Milestone))
        self._updates = [(name, detector.update) for name, detector in self.detectors.items()]
        self.needs = frozenset[str]().union(*(detector.needs for detector in self.detectors.values()))
        self.keeps = frozenset[str]().union(*(getattr(remedy, "needs", ()) for remedy in self.remedies.values()))

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
        for name, update in self._updates:
            after[name], alarm = update(state[name], record)
            if alarm is not None:
                alarms = (*alarms, replace(alarm, detector=name))
        return after, alarms

    def audible(self, alarms: tuple[Alarm, ...], history: History) -> tuple[Alarm, ...]:
        """Return the alarms that no remedy keeps quiet."""
        resting = [(name, remedy) for name, remedy in self.remedies.items() if isinstance(remedy, Resting)]
        return tuple(
            alarm
            for alarm in alarms
            if not any(remedy.rests(alarm, history._replace(name=name)) for name, remedy in resting)
        )

    def told(self, alarms: tuple[Alarm, ...]) -> tuple[Alarm, ...]:
        """Return the alarms that a person is told of: that a step has come is a cue for a remedy and no alarm."""
        return tuple(alarm for alarm in alarms if alarm.detector not in self._milestones)

    def decide(self, alarms: tuple[Alarm, ...], history: History) -> tuple[tuple[Action, Alarm], ...]:
        """Return what to do, each with the alarm that it answers; at most the last of them changes anything.

        The most severe alarm is put to the remedies first. Advice does not keep the next remedy from acting. An action
        carries its remedy's name here, with that of a rung behind a slash, and its cause.
        """
        found: list[tuple[Action, Alarm]] = []
        for alarm in sorted(alarms, key=lambda alarm: _URGENCY[alarm.severity]):
            for name, remedy in self.remedies.items():
                action = remedy.propose(alarm, history._replace(name=name))
                if action is None:
                    continue
                by = action.remedy if action.remedy.startswith(f"{name}/") else name
                found.append((replace(action, remedy=by, cause=(alarm.detector, alarm.step)), alarm))
                if action.type != "Advise":
                    return tuple(found)
        return tuple(found)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
