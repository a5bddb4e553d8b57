"""`notify.command`, run by the real program."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from runner.records import Alarm, RunResult
from runner.tracking import notify
from runner.tracking.notify import Notifier
from tests.conftest import Program

TELL = "echo $STEPSIZE_EVENT,$STEPSIZE_STEP,$STEPSIZE_DETECTOR,$STEPSIZE_MESSAGE,$STEPSIZE_RUN >> told"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait at the end of a run for a shell that a busy machine is slow to start."""
    monkeypatch.setattr(notify, "WAIT_SECONDS", 120.0)


def told(directory: Path) -> list[list[str]]:
    return [line.split(",") for line in (directory / "told").read_text().splitlines()]


def alarm(step: int, detector: str) -> Alarm:
    return Alarm(step, detector, "warn", {}, f"alarm {step}")


def test_alarm_and_end_are_told_in_order(program: Program) -> None:
    done = program("detector=[non_finite]", "optimizer.lr=10", f"notify.command='{TELL}; echo heard'")
    assert done.code == 3, done.err
    raised, end = told(done.directory)
    step, message = raised[1], raised[3]
    assert raised == ["alarm", step, "non_finite", message, str(done.run)]
    assert end == ["diverged", step, "", f"diverged: {message}", str(done.run)]
    assert (done.run / "notify.log").read_text() == "heard\nheard\n"
    assert "notify" not in done.err


def test_finished_and_failed_runs_are_told(program: Program, tmp_path: Path) -> None:
    assert program("task=quadratic", "train.duration=3", f"notify.command='{TELL}'").code == 0
    (tmp_path / "broken.py").write_text(
        "from runner.tasks.quadratic import Quadratic\n"
        "class Broken(Quadratic):\n"
        "    def loss(self, apply, batch, weight):\n"
        "        self.calls = getattr(self, 'calls', 0) + 1\n"
        "        if self.calls > 5:\n"
        "            raise RuntimeError('no')\n"
        "        return super().loss(apply, batch, weight)\n"
    )
    assert program("task=quadratic", "task._target_=broken.Broken", f"notify.command='{TELL}'").code == 1
    finished, failed = (line[:4] for line in told(tmp_path))
    assert finished == ["finished", "3", "", "finished"]
    assert failed == ["failed", failed[1], "", f"failed at step {failed[1]}: RuntimeError: no"]


def test_command_that_fails_is_one_warning_and_the_run_goes_on(program: Program) -> None:
    done = program("optimizer.lr=30", "notify.command=no-such-command")
    assert done.code == 3
    log = f"{done.run.relative_to(done.directory)}/notify.log"
    assert [line for line in done.err.splitlines() if "notify" in line] == [
        f"warning notify.command: ended with exit code 127, {log} holds its output. The run is not affected."
    ]
    assert "no-such-command" in (done.run / "notify.log").read_text()


@pytest.mark.slow
def test_command_that_hangs_does_not_hold_the_run(program: Program, tmp_path: Path) -> None:
    command = "notify.command='echo $$ > pid; exec sleep 1000'"
    done = program("task=quadratic", "train.duration=3", command, spawn=True)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert done.code == 0


def test_one_alarm_of_a_detector_a_minute_and_one_command_at_a_time(tmp_path: Path) -> None:
    warned: list[str] = []
    log = tmp_path / "notify.log"
    log.touch()
    wait = 'while [ "$STEPSIZE_STEP" = 1 ] && [ ! -e go ]; do sleep 0.01; done'
    notifier = Notifier(f"cd '{tmp_path}'; echo $STEPSIZE_STEP; {wait}", tmp_path, title="t", warn=warned.append)
    notifier.show(alarm(1, "spike"))
    notifier.show(alarm(2, "plateau"))  # the command for the first one still runs
    (tmp_path / "go").touch()
    deadline, step = time.monotonic() + 120, 3
    while len(log.read_text().split()) < 2:
        assert time.monotonic() < deadline
        notifier.show(alarm(step, "spike"))  # within a minute of the first one
        notifier.show(alarm(step + 1, "plateau"))
        step += 2
        time.sleep(0.05)
    end = RunResult("train", "finished", "finished", "t", "e", "c", 0, steps=999)
    notifier.end(end)
    first, second, last = log.read_text().split()
    assert (first, last) == ("1", "999")
    assert re.fullmatch(r"\d*[02468]", second)  # a plateau
    assert warned == []


def test_command_that_cannot_start_is_one_warning(tmp_path: Path) -> None:
    warned: list[str] = []
    notifier = Notifier("true", tmp_path / "missing", title="t", warn=warned.append)
    for step in range(3):
        notifier.show(alarm(step, f"detector{step}"))
    assert len(warned) == 1
    assert warned[0].startswith("notify.command: cannot be started ([Errno 2] No such file or directory")
