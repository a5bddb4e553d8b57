"""Run directories: where they lie, what is in them, and what is known about their surroundings."""

from __future__ import annotations

import functools
import os
import platform
import secrets
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Problem, RunnerError

ROOT = "runs"
CONFIG = "config.yaml"  # resolved
RECORDS = "records.jsonl"  # the truth
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
CURVES = "curves.png"
SWEEP = "sweep.json"  # in the directory of a sweep
SWEEP_FIGURE = "sweep.png"
LR_REPORT, LR_FIGURE, LR_PAGE = "lr_report.json", "lr_report.png", "lr_report.html"
RANGE_TEST, RANGE_FIGURE, KNOWN_RUNS = "range_test.json", "range_test.png", "known.json"
LR_FILES = (LR_REPORT, LR_FIGURE, LR_PAGE, RANGE_TEST, RANGE_FIGURE, KNOWN_RUNS)
ARTIFACTS = (CURVES, SWEEP, SWEEP_FIGURE, *LR_FILES)  # sent to MLflow where they are there
EVALUATIONS = "evaluations.jsonl"  # made later, by mode=eval
STATE = "mlflow.json"  # what has been sent
LOG = "tracking.log"  # what MLflow's libraries say
TRACEBACK = "traceback.txt"  # where a failed run, or the jobs of a sweep, went wrong
NOTIFY_LOG = "notify.log"  # what notify.command says
LOCK = ".mlflow.lock"  # held by the process that sends
WRITER_LOCK = ".lock"  # held by the process that trains
DATASET = "dataset.json"  # an artifact only


def new_run_directory(root: Path, experiment: str) -> Path:
    """Make runs/<experiment>/<date>-<time>-<four random letters> under root.

    Raises:
        RunnerError: it cannot be made.
    """
    path = root / ROOT / experiment / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise RunnerError(
            f"{path}: cannot be made ({error.strerror}). Run from a directory you may write to."
        ) from None
    return path


def output_directory(given: str | None, *, key: str, experiment: str) -> Path:
    """Make the directory for files that a mode writes: the given one, or a new one under runs/<experiment>.

    Args:
        given: as the page says it; None for a new one.
        key: of the page that says it.
        experiment: folder under runs/.
    Raises:
        ConfigError: the given one cannot be made.
        RunnerError: the new one cannot.
    """
    if given is None:
        return new_run_directory(Path(), experiment)
    place = Path(given)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"must be a directory that can be written, got {given!r} ({error.strerror})"
        raise ConfigError([Problem(key, rule, "Give another one")]) from None
    return place


def pasteable(path: Path) -> str:
    """Return a path as short as it can be pasted here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def write_whole(path: Path, text: str, *, is_private: bool = False) -> None:
    """Write a file so that a reader sees the old one or the new one, never half.

    Args:
        path: of the file.
        text: all of it.
        is_private: whether nobody but its owner may read it.
    Raises:
        OSError: it cannot be written; the old one is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch(0o600 if is_private else 0o666)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_config(directory: Path) -> Any:
    """Return the resolved configuration of a run as plain values, by libyaml where PyYAML has it: ten times as fast.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: it cannot be read.
    """
    import yaml

    text = (directory / CONFIG).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a repeat would need: Python, our package and the libraries that compute."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("stepsize-runner", "torch", "numpy", "hydra-core"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache  # what was imported is what was there at first
def git_commit(directory: Path) -> str | None:
    """Return the commit checked out in a directory, None outside a repository or without git."""
    command = ["git", "-C", str(directory), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
