"""The program as a user calls it: a process of its own, and, for tables of mistakes, in this process."""

import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from matplotlib.figure import Figure
from PIL import Image

from runner.errors import ConfigError
from tests.pages import compose_once
from tests.processes import Forked

ROOT = Path(__file__).resolve().parent.parent
# two workers of two threads each on two cores are slower than one thread each, and sums differ between counts
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
os.environ["OMP_NUM_THREADS"] = "1"
DRAW = Figure.savefig
gc.set_threshold(50_000, 20, 1_000)  # seldom: all garbage is collected between two files of tests


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """Do once what every test of this process would do again: compose the pages, and look for garbage in libraries.

    Files are not pressed onto the disk either: no test cuts the power. Figures are made but not drawn, unless a test
    asks for `pictures`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job, and children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        compose_once(patch)
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(Figure, "savefig", leave_blank)
        yield


@pytest.fixture(scope="module", autouse=True)
def swept_out(quick: None) -> Iterator[None]:
    """Collect the garbage of a file of tests at its end, where what it left open is still its own fault."""
    yield
    gc.collect()
    gc.freeze()  # libraries that have been imported


@pytest.fixture(autouse=True)
def left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a test may leave open, or another one would be blamed for it."""
    yield
    if any("unclosed" in str(mark.args) for mark in request.node.own_markers if mark.name == "filterwarnings"):
        gc.collect()


def leave_blank(figure: Figure, file: Any, *, format: str = "png", **how: Any) -> None:
    """Write a picture of one pixel: to draw takes longer than to train for some hundred steps."""
    if format == "svg":
        file.write('<svg viewBox="0 0 1 1"></svg>')
    else:
        Image.new("RGB", (1, 1)).save(file, format)


@contextmanager
def drawn() -> Iterator[None]:
    """Have figures drawn, as a user has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", DRAW)
        yield


@pytest.fixture
def pictures() -> Iterator[None]:
    with drawn():
        yield


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
    """Call the program in a directory, in a process of its own; tracking is off unless asked for."""
    process = Forked(f"tracking={tracking}", *overrides, directory=directory, environment=ENVIRONMENT)
    return Done(*process.communicate(timeout), directory)


def train_here(*overrides: str, directory: Path) -> Done:
    """Train in this process for tests that read the run; nothing is tracked."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        code = call_main(["tracking=off", *overrides], directory, patch)
    assert code == 0, err.getvalue()
    return Done(code, out.getvalue(), err.getvalue(), directory)


def call_command(*overrides: str, directory: Path) -> Done:
    """Call `python -m runner ...` in a directory, for what starts workers of joblib; nothing is tracked."""
    command = [sys.executable, "-m", "runner", "tracking=off", *overrides]
    done = subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr, directory)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """Call `python -m runner ...` in a fresh directory; tracking is off unless asked for.

    The program's `main` runs in this process, which saves the import of torch; `spawn=True` starts a process of its
    own, for runs that are killed, or print from several processes.
    """

    def call(
        *overrides: str, directory: Path = tmp_path, tracking: str = "off", spawn: bool = False, timeout: float = 120
    ) -> Done:
        if spawn:
            return call_program(*overrides, directory=directory, tracking=tracking, timeout=timeout)
        code = call_main([f"tracking={tracking}", *overrides], directory, monkeypatch)
        out, err = capfd.readouterr()
        return Done(code, out, err, directory)

    return call


def call_main(words: list[str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Call the program's `main` in this process as if started in a directory; return its exit code."""
    from runner.__main__ import main

    with monkeypatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "path", [str(directory), *sys.path])  # as `python -m` does
        sys.path_importer_cache.pop(str(directory), None)
        patch.setattr(sys, "argv", ["runner", *words])
        patch.setenv("NO_COLOR", "1")
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        try:
            return main()
        finally:
            forget_modules(directory)


def forget_modules(directory: Path) -> None:
    """Have what was imported from a directory imported anew, as a new process does."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{directory}{os.sep}"):
            del sys.modules[name]


def wait_for(what: Callable[[], Any], timeout_seconds: float = 120) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


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

    def call(*overrides: str) -> Refusal:
        code = call_main(list(overrides), tmp_path, monkeypatch)
        return Refusal(code, capsys.readouterr().err, list(tmp_path.iterdir()))

    return call


@pytest.fixture
def refuse_row(
    refuse: Callable[..., Refusal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Refusal]:
    """Compose and check a command line once, as the program does before it refuses: for long tables of mistakes.

    What only the making of the parts can find goes through the whole program.
    """
    from runner.compose import compose_leniently
    from runner.continue_run import with_saved
    from runner.job import checked

    def call(*overrides: str) -> Refusal:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["runner", *overrides])
            try:
                tree, problems, kept = compose_leniently(list(overrides))
                checked(with_saved(tree, [text.lstrip("+") for text in kept], {}, page=())[0], problems)
            except ConfigError as error:
                return Refusal(error.exit_code, f"{error}\n", list(tmp_path.iterdir()))
        return refuse(*overrides)

    return call
