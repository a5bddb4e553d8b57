"""Output that nobody reads costs no run, and Ctrl-C is answered from the first moment on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT

RUN = [sys.executable, "-m", "runner", "tracking=off", "task=quadratic"]


def statuses(directory: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in sorted(directory.glob("runs/quadratic/*/result.json"))]


ONE = ("train.duration=300", ["finished"], 0)
DIVERGING = ("optimizer.lr=9", ["diverged"], 3)
SEVERAL = ("optimizer.lr=0.1,0.2 -m", ["finished"] * 2, 0)


@pytest.mark.parametrize(
    ("where", "words", "ended", "code"),
    [
        ("", *ONE),
        pytest.param("2>&1", *SEVERAL, marks=pytest.mark.slow),
        pytest.param(">&-", *DIVERGING, marks=pytest.mark.slow),
        pytest.param(">&- 2>&-", *SEVERAL, marks=pytest.mark.slow),
        pytest.param(">/dev/full", *ONE, marks=pytest.mark.slow),
    ],
)
def test_run_whose_output_nobody_reads_goes_on(
    where: str, words: str, ended: list[str], code: int, tmp_path: Path
) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    command = f"exec {' '.join(RUN)} {words} {where}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.PIPE, check=False
    )
    os.close(pipe)
    assert statuses(tmp_path) == ended
    assert done.returncode == code, done.stderr
    assert b"Error" not in done.stderr


@pytest.mark.slow
def test_run_whose_output_is_read_too_slowly_goes_on(tmp_path: Path) -> None:
    reader, pipe = os.pipe()
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 65536)
    done = subprocess.run(
        [*RUN, "train.duration=20"], cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.PIPE, check=False
    )
    os.close(pipe)
    os.close(reader)
    assert (done.returncode, statuses(tmp_path)) == (0, ["finished"]), done.stderr


def test_interrupt_while_libraries_are_imported_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        RUN,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
