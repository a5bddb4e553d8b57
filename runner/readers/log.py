"""Lines of a log: "step 10, loss: 2.5", "Epoch 1: train_loss=2.5 val_loss=2.7", dictionaries as Python prints them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from runner.readers.collect import Columns
from runner.readers.objects import Numbered, read_objects
from runner.readers.plain import NUMBER
from runner.readers.problems import Bad
from runner.readers.roles import Role, Roles, is_held_out, may_be_loss

_SAMPLE_LINES = 200
_FIRST = "train|training|val|valid|validation|test|eval|dev|learning|grad|gradient|global|total|average|avg|running"
_COMMAS = r"[+-]?\d+(?:,\d+)+(?:\.\d+)?(?:e[+-]?\d+)?"
_PAIR = re.compile(
    rf"(?<![\w.])((?:(?:{_FIRST})[ -])*[a-z_][\w./-]*)[\"']?(?:\s*[:=]\s*|\s+)[\"']?(?:tensor\()?"
    rf"({_COMMAS}|(?=[+-]?\d*\.\d){NUMBER}|{NUMBER}(?!,\d))(?![\w.])",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_DECIMALS = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)


def is_log(text: str) -> bool:
    """Whether most lines that hold a name with a number hold a loss, and there is one."""
    found = [pairs for line in text.splitlines()[:_SAMPLE_LINES] if (pairs := _pairs(line))]
    losses = sum(any(map(_is_loss, pairs)) for pairs in found)
    return losses > 0 and 2 * losses >= len(found)


def read_log(lines: Iterable[str], given: Mapping[Role, str]) -> tuple[Columns, Roles]:
    """Read what names stand before numbers, line by line, in bounded memory; other lines are left out.

    Raises:
        ConfigError: no name, or several, may be the training loss, or a comma in one says no number.
    """
    other = 0
    rows = iter(lines)
    sample = list(islice(rows, _SAMPLE_LINES))
    bad = Bad("numbers spelled alike: commas before decimals, or points", "Write all of them with points")
    is_decimal = _has_decimal_commas([pair for line in sample for pair in _pairs(line).items()])

    def objects() -> Iterator[Numbered]:
        nonlocal other
        for row, line in enumerate(chain(sample, rows), start=1):
            if pairs := _pairs(line):
                found = {name: _number(text, is_decimal=is_decimal) for name, text in pairs.items()}
                for name in [name for name, value in found.items() if isinstance(value, str) and _is_loss(name)]:
                    bad.add(f"{pairs[name]!r} in row {row:,}, name {name!r}")
                    found[name] = math.nan
                yield row, found
            else:
                other += bool(line.strip())

    columns, roles = read_objects(objects(), given, bad)
    if is_decimal:
        columns.notes.append("commas in numbers are read as decimal points")
    if other:
        lines_are = "1 line without a named number is" if other == 1 else f"{other:,} lines without a named number are"
        columns.notes.append(f"{lines_are} left out")
    return columns, roles


def _pairs(line: str) -> dict[str, str]:
    """Return name -> number as it is written, the first of each name."""
    found: dict[str, str] = {}
    for name, text in _PAIR.findall(line):
        found.setdefault(name, text)
    return found


def _is_loss(name: str) -> bool:
    return may_be_loss(name) or (is_held_out(name) and "loss" in name)


def _has_decimal_commas(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether commas stand before decimals: no number has a point, and they do not group digits, or those of a loss."""
    if any("." in text for _, text in pairs):
        return False
    commas = [(name, text) for name, text in pairs if "," in text]
    return any(_is_loss(name) or not _THOUSANDS.fullmatch(text) for name, text in commas)


def _number(text: str, *, is_decimal: bool) -> float | str:
    """Return the number; the text where its commas say no number, which is refused where it is used."""
    if "," not in text:
        return float(text)
    if is_decimal:
        return float(text.replace(",", ".")) if _DECIMALS.fullmatch(text) else text
    return float(text.replace(",", "")) if _THOUSANDS.fullmatch(text) else text
