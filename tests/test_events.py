"""Which alarms and actions have a line of their own while a run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from runner.records import Action, Alarm
from runner.tracking import events
from runner.tracking.events import Events
from tests.conftest import Program


@pytest.fixture(autouse=True)
def _all_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SECONDS_BETWEEN_LIKE_EVENTS", 1e9)


def alarm(step: int, detector: str = "non_finite") -> Alarm:
    return Alarm(step, detector, "stop", {}, f"{detector} at step {step}")


def cut(step: int, message: str | None = "half", **arguments: float) -> Action:
    return Action(step, "heal/halve", "Rollback", arguments, ("non_finite", step), message)


def said(seen: Events, *records: Alarm | Action) -> list[str]:
    lines: list[Any] = []
    for record in records:
        lines += seen.alarm(record) if isinstance(record, Alarm) else seen.action(record, lr=0.5)
    return [line.plain for line in lines]


def test_every_way_back_is_shown_with_its_rates_and_its_alarm() -> None:
    seen = Events()
    assert said(seen, alarm(3), cut(3, factor=0.5), alarm(4), alarm(5), alarm(5, "blow_up"), cut(5, factor=0.5)) == [
        "alarm  non_finite at step 3",
        "action Rollback at step 3 (heal/halve on non_finite): half, lr 0.5 to 0.25",
        "alarm  blow_up at step 5",
        "alarm  non_finite at step 5",
        "action Rollback at step 5 (heal/halve on non_finite): half, lr 0.5 to 0.25",
    ]
    assert (seen.hidden["alarms"], seen.hidden["actions"]) == (1, 0)


def test_what_comes_at_every_step_is_counted_instead() -> None:
    seen = Events()
    lines = said(seen, *(record for step in range(30) for record in (alarm(step), cut(step, None))))
    assert lines[-2:] == ["alarm  non_finite at step 19", "action Rollback at step 19 (heal/halve on non_finite)"]
    assert (len(lines), seen.hidden["alarms"], seen.hidden["actions"]) == (40, 10, 10)


def test_the_log_of_a_healed_run_has_all_its_actions_and_its_end_counts_them(program: Program) -> None:
    done = program("optimizer.lr=30", "remedy=[rollback_ladder]", "train.duration=100", "task.hidden=[16]")
    assert done.code == 0, done.err
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    actions = [record for record in records if record["kind"] == "action"]
    shown = [line for line in done.out.splitlines() if line.startswith("action Rollback at step ")]
    assert len(shown) == len(actions) > 1
    assert f"\nremedy  {len(actions)} Rollback\n" in done.out
    hidden = sum(record["kind"] == "alarm" for record in records) - done.out.count("\nalarm  ")
    assert (f"; {hidden} of them only in records.jsonl" in done.out) == (hidden > 0)


RINGS = """
import signal
from runner.tasks.digits import Digits

class Rings(Digits):
    def batch(self, step, split, part=(0, 1)):
        if split == "train" and step == 180:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step, split, part)
"""


def test_a_healed_run_that_is_interrupted_says_how_to_go_on(program: Program, tmp_path: Path) -> None:
    (tmp_path / "ringing.py").write_text(RINGS)
    task = ["task._target_=ringing.Rings", "train.duration=200"]
    done = program(*task, "optimizer.lr=30", "remedy=[rollback_ladder]")
    assert done.code == 130, done.err
    assert ": healed: " in done.out
    assert f"go on with: python -m runner resume.from={done.out.split()[-1]}\n" in done.out
