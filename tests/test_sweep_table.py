"""A sweep on a terminal that a person would look at: what fits, what stays, and what the final table says."""

import contextlib
import json
import pty
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from runner.config import Tracking
from runner.errors import SweepError
from runner.sweeps.end import finish
from runner.tracking.stderr import gathered_stderr
from runner.tracking.sweep_file import Job, JobState, Sweep
from runner.tracking.sweep_table import SweepTable, live_table
from tests.conftest import Program, wait_for
from tests.test_terminal import HIDE, SHOW, OnTerminal

DIVERGED = JobState("diverged", "diverged: gradient norm is inf at step 1,234", "runs/a", 1234, 10_000, 9.5e8, 9.75)


def sweep_of(*varied: dict[str, str]) -> Sweep:
    jobs = tuple(Job(number, (), one, "digits", 0.1, 0) for number, one in enumerate(varied, start=1))
    return Sweep("20260101-000000-abcd", "", (), (), jobs, "../../..")


def drawn(sweep: Sweep, states: list[JobState], *, width: int) -> list[list[str]]:
    """The cells of the table as a terminal of this width shows them, head first."""
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(live_table(sweep, states, rows=20, width=width, seconds=1.0))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    head = next(i for i, line in enumerate(lines) if line.split()[:1] == ["job"])
    return [line.split() for line in (lines[head], *lines[head + 2 :]) if line.strip()]


@pytest.mark.parametrize(
    ("width", "rest"),
    [
        (140, ["val", "loss", "step", "loss", "verdict"]),
        (80, ["val", "loss", "step"]),
        (66, ["val", "loss"]),
        (60, []),
    ],
)
def test_narrow_terminal_keeps_number_varied_values_and_status(width: int, rest: list[str]) -> None:
    varied = [{"optimizer": name, "optimizer.lr": "0.0001", "seed": "2"} for name in ("sgd", "adamw")]
    head, first, second = drawn(sweep_of(*varied), [DIVERGED, JobState()], width=width)
    assert head == ["job", "optimizer", "optimizer.lr", "seed", "status", *rest]
    assert first[:5] == ["1", "sgd", "0.0001", "2", "diverged"]
    assert second == ["2", "adamw", "0.0001", "2", "waiting"]


def test_verdict_is_cut_before_any_other_column_is() -> None:
    sweep = sweep_of({"optimizer.lr": "0.1"})
    whole = "gradient norm is inf at step 1,234"
    for width, verdict in ((120, whole), (93, "gradient norm is inf…"), (80, "gradien…")):
        row = drawn(sweep, [DIVERGED], width=width)[1]
        assert row[:6] == ["1", "0.1", "diverged", "9.7500", "1,234/10,000", "9.5e+08"]
        assert " ".join(row[6:]) == verdict


def lines_of(
    before: JobState,
    after: Callable[[], JobState],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    *,
    until: Callable[[], bool] = lambda: True,
) -> tuple[list[str], str]:
    """What a pipe gets, on stdout and stderr, about a sweep of one job that was in one state and is in another."""
    looks = iter([lambda: before])
    with (
        gathered_stderr(tmp_path / "stderr.log") as stderr,
        SweepTable(sweep_of({"seed": "0"}), lambda: [next(looks, after)()], stderr=stderr),
    ):
        wait_for(until)
    out, err = capfd.readouterr()
    return out.splitlines(), err


FAILED = JobState("failed", "failed at step 3: ValueError: no", "runs/a", 3, 9, seconds=1.0)
UNBUILT = JobState("failed", "2 problems in the configuration:\n  a: b\n  c: d")


@pytest.mark.parametrize(
    ("before", "after", "printed"),
    [
        (JobState(), UNBUILT, "job 1/1 (seed=0): failed: 2 problems in the configuration: a: b c: d"),
        (FAILED, UNBUILT, "job 1/1 (seed=0): failed: 2 problems in the configuration: a: b c: d"),
        (
            FAILED,
            replace(FAILED, run="runs/b"),
            "job 1/1 (seed=0): failed at step 3: ValueError: no, 3/9 steps in 1.0 s",
        ),
        (
            FAILED,
            JobState("finished", "finished", "runs/b", 9, 9, final_loss=0.5, seconds=1.0),
            "job 1/1 (seed=0): finished, loss 0.5000, 9/9 steps in 1.0 s",
        ),
        (FAILED, FAILED, None),
        (replace(FAILED, status="diverged"), replace(FAILED, status="diverged"), None),
    ],
)
def test_job_that_ends_anew_gets_a_line_also_without_a_run(
    before: JobState, after: JobState, printed: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = lines_of(before, lambda: after, tmp_path, capfd)
    assert out == ([printed] if printed else [])
    assert err == ""


def test_error_of_drawing_is_told_once_and_the_terminal_gets_its_cursor_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def vanished() -> JobState:
        tries.append(1)
        raise FileNotFoundError("the disk is gone")

    main, terminal = pty.openpty()
    with open(main, "rb", buffering=0) as received:
        with open(terminal, "w") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            patch.setenv("TERM", "xterm")
            patch.setattr("runner.tracking.sweep_table.POLL_SECONDS", 0.01)
            _, err = lines_of(JobState(), vanished, tmp_path, capfd, until=lambda: len(tries) > 3)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while piece := received.read(65536):
                shown += piece
    assert shown.rindex(SHOW.encode()) > shown.rindex(HIDE.encode())
    assert err.count("warning sweep: the table is not drawn (FileNotFoundError: the disk is gone (") == 1
    assert err.count("\n") == 1


def test_quiet_sweep_prints_its_directory_and_what_went_wrong_elsewhere(program: Program) -> None:
    done = program("task=quadratic", "train.duration=30", "optimizer.lr=0.01,9", "quiet=true", "-m", spawn=True)
    assert done.code == 0
    assert done.out == f"{done.run.relative_to(done.directory)}\n"
    warning, early, alarm, action, job = done.err.splitlines()
    assert warning.startswith("warning optimizer.lr: 9 is ")
    assert early.startswith("alarm  smoothed loss ")
    assert alarm.startswith("alarm  smoothed loss ")
    assert action.startswith("action Stop at step ")
    assert job.startswith("job 2 of 2 (optimizer.lr=9): diverged: smoothed loss ")


def test_interrupt_leaves_nothing_of_the_live_table_on_the_screen(tmp_path: Path) -> None:
    grid = ["task=quadratic", "train.duration=1e9", "optimizer.lr=0.01,0.02"]
    run = OnTerminal(*grid, f"tags.long={'a' * 44},b", "-m", directory=tmp_path, COLUMNS="80", LINES="24")
    run.wait_for("running")
    run.type("\x03")  # the terminal echoes ^C behind a table as wide as itself
    run.wait_for("^C")
    run.process.send_signal(signal.SIGINT)
    seen = run.end()
    assert seen.code == 130
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(seen.raw)
    lines = [line.strip() for line in screen.display if line.strip()]
    assert lines[0].split() == ["optimizer.lr", "tags.long", "seeds", "final", "train", "loss", "verdict"]
    assert lines[-1] == "interrupted by SIGINT: 1 interrupted, 3 not started"
    assert not screen.cursor.hidden


def test_printed_settings_are_the_numbers_of_sweep_json_best_first(program: Program) -> None:
    grid = ["optimizer.lr=0.02,0.2", "seed=0,1", "train.duration=20", "task.hidden=[8]"]
    done = program(*grid, "-m")
    assert done.code == 0, done.err
    settings = json.loads((done.run / "sweep.json").read_text())["settings"]
    means = [setting["final_loss"]["mean"] for setting in settings]
    assert len(means) == 2
    assert means == sorted(means)
    printed = [re.split(r" {2,}", line.strip()) for line in done.out.splitlines() if " ± " in line]
    assert printed == [
        [
            setting["varied"]["optimizer.lr"],
            "2",
            *(
                f"{spread['mean']:.4f} ± {spread['sd']:.4f}"
                for spread in (setting["final_loss"], setting["best_val_loss"])
            ),
            "2 finished",
        ]
        for setting in settings
    ]


def test_line_that_several_jobs_say_is_shown_once_and_counted(program: Program) -> None:
    done = program(
        "task=quadratic", "train.duration=30", "optimizer.lr=9", "seed=0,1,2", "quiet=true", "-m", spawn=True
    )
    assert done.err.count("times above the typical range") == 1
    log = done.run.relative_to(done.directory) / "stderr.log"
    assert f"4 lines above came up to 3 times, from one job or several; {log} has them all" in done.err
    assert (done.directory / log).read_text().count("times above the typical range") == 3


def test_dead_tracking_server_is_followed_by_the_command_that_sends_all_runs(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    grid = ["task=quadratic", "train.duration=10", "optimizer.lr=0.1,0.2", "tracking.uri=http://127.0.0.1:9"]
    done = program(*grid, "-m", tracking="mlflow")
    assert done.code == 0, done.err
    runs = [job["run"] for job in json.loads((done.run / "sweep.json").read_text())["jobs"]]
    everything = ",".join([*runs, str(done.run.relative_to(done.directory))])
    assert done.err.splitlines()[-1] == (
        "warning tracking.uri: 3 of 3 runs, the summary counted, have not arrived; send them later with: "
        f"python -m runner -m mode=upload source={everything} tracking.uri=http://127.0.0.1:9"
    )


def test_sweep_that_cannot_be_written_prints_its_table_and_how_to_write_it_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    tracking = Tracking(uri=None, wait_seconds=1)
    with pytest.raises(SweepError, match=r"gone: cannot be written \(No such file or directory\)\. .* resume\.sweep="):
        finish(gone, sweep_of({"seed": "0"}), [DIVERGED], tracking=tracking, signal=None, safety=3.0)
    assert "1 diverged" in capfd.readouterr().out
