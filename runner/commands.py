"""Command lines that can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

PROGRAM = ("python", "-m", "runner")


def changed(command: str, overrides: Sequence[str], *, multirun: bool = False) -> str:
    """Return the command of a run with overrides added or replaced.

    Args:
        command: the command line that repeats the run.
        overrides: such as "optimizer.lr=0.01"; one that goes on with a run (resume.from) stands alone.
        multirun: whether a value of an override is a list.
    """
    if any(override.startswith("resume.from=") for override in overrides):
        return shlex.join([*PROGRAM, *overrides])
    keys = {override.partition("=")[0] for override in overrides}
    words = [word for word in shlex.split(command) if word.lstrip("+").partition("=")[0] not in keys]
    if multirun:
        words.insert(len(PROGRAM), "-m")
    return shlex.join([*words, *overrides])
