"""The program as a user calls it: a process of its own, and, for tables of mistakes, in this process."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
# two workers of two threads each on two cores are slower than one thread each, and sums differ between counts
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
os.environ["OMP_NUM_THREADS"] = "1"


class Done(NamedTuple):
    """What a call of the program left behind."""

    code: int
    out: str
    err: str
    directory: Path

    @property
    def run(self) -> Path:
        """The run directory: the last line printed."""
        return self.directory / self.out.strip().splitlines()[-1]


Program = Callable[..., Done]


def call_program(*overrides: str, directory: Path, tracking: str = "off", timeout: float = 120) -> Done:
    """Call `python -m runner ...` in a directory; tracking is off unless asked for."""
    command = [sys.executable, "-m", "runner", f"tracking={tracking}", *overrides]
    done = subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr, directory)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Call the program in a fresh directory."""
    return functools.partial(call_program, directory=tmp_path)


class Refusal(NamedTuple):
    """What the program said about a wrong command line, and what it left behind."""

    code: int
    err: str
    left_behind: list[Path]


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Refusal]:
    """Call the program's `main` in this process, for mistakes that never get as far as training."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> Refusal:
        from runner.__main__ import main

        monkeypatch.setattr(sys, "argv", ["runner", *overrides])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        code = main()
        return Refusal(code, capsys.readouterr().err, list(tmp_path.iterdir()))

    return call
