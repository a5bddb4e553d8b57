"""What a diagnosis suggests, as lines with commands to paste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.commands import changed
from runner.diagnosis.verdict import Suggestion

MOST = 4
_SHORT = ("healthy", "cannot_tell")  # one line is enough


def suggestion_lines(tree: Mapping[str, Any], command: str) -> list[str]:
    """Return what to try, a line each: one for a healthy run, at most four for another.

    Args:
        tree: the diagnosis in its JSON form.
        command: the command line that repeats the run.
    """
    found = [Suggestion(tuple(entry["overrides"]), entry["why"]) for entry in tree["suggestions"]]
    return [_line(suggestion, command) for suggestion in found[: 1 if tree["cause"] in _SHORT else MOST]]


def _line(suggestion: Suggestion, command: str) -> str:
    if not suggestion.overrides:
        return suggestion.why
    return f"{suggestion.why}: {changed(command, suggestion.overrides, multirun=suggestion.is_multirun)}"
