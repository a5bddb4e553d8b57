"""Lines of a log: "step 10, loss: 2.5", "Epoch 1: train_loss=2.5 val_loss=2.7", dictionaries as Python prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from runner.readers.collect import Columns
from runner.readers.objects import Numbered, read_objects
from runner.readers.plain import NUMBER
from runner.readers.problems import Bad
from runner.readers.roles import Role, Roles, is_held_out, may_be_loss

_SAMPLE_LINES = 200
_FIRST = "train|training|val|valid|validation|test|eval|dev|learning|grad|gradient|global|total|average|avg|running"
_PAIR = re.compile(
    rf"(?<![\w.])((?:(?:{_FIRST})[ -])*[a-z_][\w./-]*)[\"']?(?:\s*[:=]\s*|\s+)[\"']?(?:tensor\()?"
    rf"({NUMBER})(?![\w.])",
    re.IGNORECASE,
)


def is_log(text: str) -> bool:
    """Whether most lines that hold a name with a number hold a loss, and there is one."""
    found = [pairs for line in text.splitlines()[:_SAMPLE_LINES] if (pairs := _pairs(line))]
    losses = sum(any(may_be_loss(name) or (is_held_out(name) and "loss" in name) for name in pairs) for pairs in found)
    return losses > 0 and 2 * losses >= len(found)


def read_log(lines: Iterable[str], given: Mapping[Role, str]) -> tuple[Columns, Roles]:
    """Read what names stand before numbers, line by line, in bounded memory; other lines are left out.

    Raises:
        ConfigError: no name, or several, may be the training loss.
    """
    other = 0

    def objects() -> Iterator[Numbered]:
        nonlocal other
        for row, line in enumerate(lines, start=1):
            if pairs := _pairs(line):
                yield row, pairs
            else:
                other += bool(line.strip())

    columns, roles = read_objects(objects(), given, Bad("lines of a log", "Mend these lines"))
    if other:
        lines_are = "1 line without a named number is" if other == 1 else f"{other:,} lines without a named number are"
        columns.notes.append(f"{lines_are} left out")
    return columns, roles


def _pairs(line: str) -> dict[str, float]:
    """Return name -> number, the first of each name."""
    found: dict[str, float] = {}
    for name, value in _PAIR.findall(line):
        found.setdefault(name, float(value))
    return found
