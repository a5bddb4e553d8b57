"""Everything that goes wrong and is the user's to read.

RunnerError                    exit 1
├── ConfigError                exit 2, carries every problem found
├── TaskError                  exit 1, data or model of the task
├── CheckpointError            exit 1, a checkpoint that cannot be read or written
│   └── MisfitError            exit 1, a checkpoint of another model
├── NoSuggestionError          exit 3, or 1: a range test without a bracket; 3 where every ramp blew up
├── SweepError                 exit 1, 3 or 128 + signal: no job of a sweep finished, or it was interrupted
└── TrackingError              never fatal: reported, and the run goes on
"""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class RunnerError(Exception):
    """Root of all errors that end as text and an exit code, never as a traceback."""

    exit_code: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (type(self), self.args, vars(self))  # workers of a sweep send it home, whatever its arguments


def _copied(kind: type[RunnerError], args: tuple[Any, ...], state: dict[str, Any]) -> RunnerError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class Problem(NamedTuple):
    """One thing wrong with one value.

    Attributes:
        key: dotted key, as on the command line (`optimizer.lr`).
        rule: what must hold and what was given, without a final full stop.
        fix: what to do about it, a sentence without its full stop; may be empty.
    """

    key: str
    rule: str
    fix: str = ""

    def __str__(self) -> str:
        end = "?" if "did you mean" in self.rule else "."
        question = self.fix.startswith("Did you mean")
        return f"{self.key}: {self.rule}{end}" + (f" {self.fix}{'?' if question else '.'}" if self.fix else "")


class ConfigError(RunnerError):
    """The configuration is refused, with every problem in it at once.

    Args:
        problems: what is wrong.
        places: problem -> which jobs of a sweep have it.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], *, places: Mapping[Problem, str] | None = None) -> None:
        self.problems = tuple(sorted(set(problems)))
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the configuration:"
        ends = {problem: f" [{place}]" for problem, place in (places or {}).items()}
        super().__init__("\n".join([head, *(f"  {problem}{ends.get(problem, '')}" for problem in self.problems)]))


class TaskError(RunnerError):
    """Data or model of the task cannot be had.

    Args:
        reason: text, or the problem with the value of the page that it is about.
    """

    def __init__(self, reason: str | Problem) -> None:
        self.problem = reason if isinstance(reason, Problem) else None
        super().__init__(str(reason))


class CheckpointError(RunnerError):
    """A checkpoint cannot be read or written."""


class MisfitError(CheckpointError):
    """A checkpoint that can be read is that of another model.

    Args:
        path: the checkpoint.
        misfit: the first weight that does not fit, in words.
    """

    def __init__(self, path: object, misfit: str) -> None:
        self.misfit = misfit
        super().__init__(f"{path}: does not fit the model: {misfit}.")


class NoSuggestionError(RunnerError):
    """A range test tells no bracket; its report is written."""

    def __init__(self, text: str, *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class SweepError(RunnerError):
    """No job of a sweep finished, or a signal ended it; what is done is kept."""

    def __init__(self, text: str, *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class TrackingError(RunnerError):
    """A tracking server cannot be reached; the records on disk stay complete."""


class Fault(NamedTuple):
    """An argument that a factory refuses.

    Attributes:
        argument: its name, or "" where it is about several.
        rule: what must hold and what was given.
        fix: what to do about it; a name after a dot stands for one of its arguments, as in "Set .decay=10%".
    """

    argument: str
    rule: str
    fix: str


class FactoryError(ValueError):
    """A factory refuses its arguments, and knows what to do about them.

    Args:
        faults: of its own.
        parts: problems of parts that it makes, by their dotted keys.
    """

    def __init__(self, *faults: Fault, parts: Iterable[Problem] = ()) -> None:
        self.faults, self.parts = faults, tuple(parts)
        own = [f"{fault.argument}: {fault.rule}" if fault.argument else fault.rule for fault in faults]
        super().__init__("; ".join([*own, *map(str, self.parts)]))

    def problems(self, key: str) -> list[Problem]:
        """Return the problems of a node with this dotted key."""
        return [
            Problem(f"{key}.{name}" if name else key, rule, re.sub(r"(?<=[ +])\.(?=[a-z])", f"{key}.", fix))
            for name, rule, fix in self.faults
        ] + list(self.parts)


def refused(argument: str, rule: str, fix: str) -> FactoryError:
    """Return the error of a factory that refuses one argument."""
    return FactoryError(Fault(argument, rule, fix))


def in_words(error: Exception) -> str:
    """Return an error as a person wants it."""
    if isinstance(error, RunnerError):
        return str(error)
    return with_place(error)


def with_place(error: BaseException) -> str:
    """Return type and text of an error, and the file and line that raised it."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    # no frames when it comes from another process
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen importlib")]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if str(error) else ''}{error}{place}"


AGAINST_EXIT = "Raise an exception there, which says what is wrong"
"""The fix for code of the user that ends the program."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name closest to `name`, or "" when none is close."""
    lower = {other.lower(): other for other in reversed(known)}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return lower[found[0]] if found else ""


def unknown_key(key: str, known: Sequence[str]) -> Problem:
    """Return the problem of a dotted key that does not exist.

    Args:
        key: the dotted key as given.
        known: names allowed at the same place, without the prefix.
    """
    prefix, _, name = key.rpartition(".")
    close = nearest(name, known)
    rule = f"unknown key, did you mean {prefix + '.' if prefix else ''}{close}" if close else "unknown key"
    return Problem(key, rule, f"Known keys here: {', '.join(sorted(known)) or 'none'}")
