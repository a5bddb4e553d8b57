"""`notify.command`, run by the real program."""

import re
import time
from pathlib import Path

import pytest

from runner.records import Alarm
from runner.tracking.notify import Notifier
from tests.conftest import ROOT, Program

TELL = 'printf "%s|%s|%s|%s|%s\\n" "$STEPSIZE_EVENT" "$STEPSIZE_STEP" "$STEPSIZE_DETECTOR" "$STEPSIZE_MESSAGE" "$STEPSIZE_RUN"'


def override(command: str) -> str:
    escaped = command.replace("\\", "\\\\").replace("'", "\\'")
    return f"notify.command='{escaped}'"


def told(directory: Path) -> list[list[str]]:
    return [line.split("|") for line in (directory / "told").read_text().splitlines()]


def test_alarm_and_end_are_told_in_order(program: Program) -> None:
    done = program("optimizer.lr=30", override(f"{TELL} >> told; echo heard"))
    assert done.code == 3, done.err
    alarm, end = told(done.directory)
    step = alarm[1]
    assert alarm[:3] == ["alarm", step, "non_finite"]
    assert end[:4] == ["diverged", step, "", f"diverged: {alarm[3]}"]
    assert alarm[4] == end[4] == str(done.run)
    assert (done.run / "notify.log").read_text() == "heard\nheard\n"
    assert "notify" not in done.err


def test_finished_and_failed_runs_are_told(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("train.duration=3", override(f"{TELL} >> told")).code == 0
    (tmp_path / "broken.py").write_text(
        "from runner.tasks.digits import Digits\n"
        "class Broken(Digits):\n"
        "    def loss(self, apply, batch):\n"
        "        raise RuntimeError('no')\n"
    )
    monkeypatch.setitem(__import__("tests.conftest").conftest.ENVIRONMENT, "PYTHONPATH", f"{ROOT}:{tmp_path}")
    assert program("task._target_=broken.Broken", override(f"{TELL} >> told")).code == 1
    assert [line[:4] for line in told(tmp_path)] == [
        ["finished", "3", "", "finished"],
        ["failed", "0", "", "failed at step 0: RuntimeError: no"],
    ]


def test_command_that_fails_is_one_warning_and_the_run_finishes(program: Program) -> None:
    done = program("optimizer.lr=30", override("no-such-command"))
    assert done.code == 3
    warnings = [line for line in done.err.splitlines() if "notify" in line]
    log = f"{done.run.relative_to(done.directory)}/notify.log"
    assert warnings == [
        f"warning notify.command: ended with exit code 127, {log} holds its output. The run is not affected."
    ]
    assert "no-such-command" in (done.run / "notify.log").read_text()


def test_command_that_hangs_does_not_hold_the_run(program: Program) -> None:
    started = time.monotonic()
    done = program("train.duration=3", override("sleep 60 & echo $! > pid; wait"))
    assert done.code == 0, done.err
    assert time.monotonic() - started < 50
    pid = int((done.directory / "pid").read_text())
    __import__("os").kill(pid, 9)


def test_one_alarm_of_a_detector_a_minute_and_one_command_at_a_time(tmp_path: Path) -> None:
    def alarm(step: int, detector: str) -> Alarm:
        return Alarm(step, detector, "warn", {}, f"alarm {step}")

    def heard() -> list[str]:
        log = tmp_path / "notify.log"
        return log.read_text().split() if log.exists() else []

    warned: list[str] = []
    command = 'echo $STEPSIZE_STEP; while [ "$STEPSIZE_STEP" = 1 ] && [ ! -e go ]; do sleep 0.01; done'
    notifier = Notifier(f"cd '{tmp_path}'; {command}", tmp_path, title="t", warn=warned.append)
    notifier.show(alarm(1, "spike"))
    notifier.show(alarm(2, "plateau"))  # the command for the first one still runs
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 30
    step = 3
    while heard() == ["1"] or not heard():
        assert time.monotonic() < deadline
        notifier.show(alarm(step, "spike"))  # within a minute of the first one
        notifier.show(alarm(step + 1, "plateau"))
        step += 2
        time.sleep(0.05)
    first, second = heard()
    assert first == "1"
    assert re.fullmatch(r"\d*[02468]", second)  # a plateau
    assert warned == []


def test_command_that_cannot_start_is_one_warning(tmp_path: Path) -> None:
    warned: list[str] = []
    notifier = Notifier("true", tmp_path / "missing", title="t", warn=warned.append)
    for step in range(3):
        notifier.show(Alarm(step, f"detector{step}", "warn", {}, "m"))
    assert len(warned) == 1
    assert warned[0].startswith("notify.command: cannot be started ([Errno 2] No such file or directory")
