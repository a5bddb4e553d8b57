"""Command lines that can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

PROGRAM = ("python", "-m", "runner")
_SECTIONS = {"remedy": "remedies"}  # of config groups whose options are kept by name; the others have their own name
BROUGHT = {
    "heal": ("probe_due", "blow_up", "stuck_at_prior"),
    "probe": ("probe_due",),
    "rollback_ladder": ("blow_up",),
}
"""remedy -> detectors that come with it"""


def changed(command: str, overrides: Sequence[str], *, multirun: bool = False) -> str:
    """Return the command of a run with overrides added or replaced.

    Where they choose another option of a group (`remedy=[heal]`), what the command says of the old one goes with it.

    Args:
        command: the command line that repeats the run.
        overrides: such as "optimizer.lr=0.01"; one that goes on with a run (resume.from) stands alone.
        multirun: whether a value of an override is a list.
    """
    if any(override.startswith("resume.from=") for override in overrides):
        return shlex.join([*PROGRAM, *overrides])
    words = shlex.split(command)
    keys = {_key(override) for override in overrides}
    gone = [prefix for override in overrides for prefix in _gone(override, words)]
    words = [word for word in words if _key(word) not in keys and not _is_below(_key(word), gone)]
    if multirun:
        words.insert(len(PROGRAM), "-m")
    return shlex.join([*words, *overrides])


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _gone(override: str, words: Sequence[str]) -> list[str]:
    """Return the sections of a command that an option of a group leaves without an owner."""
    group = _key(override)
    if "." in group:
        return []
    old, new = _options(group, words), _options(group, [override])
    if group not in _SECTIONS:
        return [group] if old != new else []
    named = {_key(word).split(".")[1] for word in words if _key(word).startswith(f"{_SECTIONS[group]}.")}
    brought = {name for option in old for name in BROUGHT.get(option, ())}
    kept = {name for option in new for name in BROUGHT.get(option, ())} | set(_options("detector", words))
    detectors = [f"detectors.{name}" for name in sorted(brought - kept)]
    return [*(f"{_SECTIONS[group]}.{name}" for name in sorted(named - set(new))), *detectors]


def _options(group: str, words: Sequence[str]) -> list[str]:
    """Return the options of a group that a command line chooses, [] where it chooses none."""
    chosen = [word.partition("=")[2] for word in words if _key(word) == group]
    return [name.strip() for name in chosen[-1].strip("[]").split(",")] if chosen else []
