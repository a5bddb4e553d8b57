"""JSON: a line an object, a list of objects, a mapping of lists, or the trainer_state.json of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from runner.diagnosis.curve import Known
from runner.readers.cells import number
from runner.readers.collect import Collector, Columns
from runner.readers.problems import Bad, refused
from runner.readers.roles import Role, Roles, find_roles, is_held_out, may_be_loss
from runner.readers.series import join_series

_BATCH = 20_000
_SPLIT_KEYS = ("split", "mode", "phase", "stage", "subset", "set")
Numbered = tuple[int, Mapping[str, Any]]  # row and what stands in it


def read_lines(lines: Iterable[str], given: Mapping[Role, str]) -> tuple[Columns, Roles]:
    """Read JSONL in bounded memory; an unfinished last line is left out.

    Raises:
        ConfigError: lines are not JSON objects, or no key is the loss, or a value of it is no number.
    """
    bad = Bad("JSON objects, one a line", "Mend these lines")
    torn: list[str] = []

    def objects() -> Iterator[Numbered]:
        for row, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError(found)
            except ValueError:
                if not line.endswith("\n") and row > 1:
                    torn.append("the unfinished last line is left out")
                else:
                    bad.add(f"{line.strip()[:40]!r} in row {row:,}")
                continue
            yield row, found

    columns, roles = read_objects(objects(), given, bad)
    columns.notes.extend(torn)
    return columns, roles


def read_document(text: str, given: Mapping[Role, str]) -> tuple[Columns, Roles, Known, str]:
    """Read one JSON document.

    Returns:
        columns, roles, what it says about the run, and what kind of document it is.
    Raises:
        ConfigError: it is not JSON, or of no form that is known, or no key is the loss.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise refused(f"must be JSON, as it begins like it, but {error}", "Mend the file") from None
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        columns, roles = _of_objects(document["log_history"], given)
        return columns, roles, _known(document), "trainer_state.json of transformers"
    if isinstance(document, list) and document and all(isinstance(item, dict) for item in document):
        return *_of_objects(document, given), Known(), "JSON, a list of objects"
    lists = (
        {key: value for key, value in _flat(document) if isinstance(value, list)} if isinstance(document, dict) else {}
    )
    if lists:
        return *_of_lists(lists, given), Known(), "JSON, a list for each column"
    if isinstance(document, dict) and any(map(may_be_loss, document)):
        return *_of_objects([document], given), Known(), "JSON, one object"
    keys = f"an object with {', '.join(map(repr, list(document)[:10]))}" if isinstance(document, dict) else "a list"
    rule = f"must be JSON with log_history, a list of numbers or of objects, or an object with lists, got {keys}"
    raise refused(rule, 'Write a line {"step": 0, "loss": 2.5} for every step')


def _of_objects(items: Iterable[Any], given: Mapping[Role, str]) -> tuple[Columns, Roles]:
    numbered = ((row, item) for row, item in enumerate(items, start=1) if isinstance(item, dict))
    return read_objects(numbered, given, Bad("JSON objects", "Mend these"))


def _of_lists(lists: Mapping[str, list[Any]], given: Mapping[Role, str]) -> tuple[Columns, Roles]:
    of_numbers = [name for name, values in lists.items() if any(map(_is_number, values))]
    roles = find_roles(of_numbers, given)
    bad = Bad("numbers", "Mend these values, or set source.columns to name other columns")
    found: dict[str, list[float]] = {name: [] for name in roles.columns.values()}
    for name in found:
        for place, item in enumerate(lists[name], start=1):
            try:
                value = number(item)
            except ValueError:
                bad.add(f"{str(item)[:40]!r} in place {place:,} of {name!r}")
                continue
            found[name].append(np.nan if value is None else value)
    bad.check()
    wanted = {name: len(found[name]) for role, name in roles.columns.items() if role != "val_loss"}
    if len(set(wanted.values())) > 1:
        lengths = ", ".join(f"{name!r} with {length:,}" for name, length in wanted.items())
        rule = f"must have as many values in each column, got {lengths}"
        raise refused(rule, "Mend the file, or set source.columns to name other columns")
    steps = found[roles.step] if roles.step else list(range(len(found[roles.loss])))
    evals = found.get(roles.val_loss or "", [])
    if evals and len(evals) < len(steps):  # an evaluation now and then, the last one at the end
        places = [round((i + 1) * len(steps) / len(evals)) - 1 for i in range(len(evals))]
        at_evals = [steps[place] for place in places]
    else:
        at_evals = [*steps, *range(len(steps), len(evals))]
    chosen = {name: (steps, found[name]) for role, name in roles.columns.items() if role not in ("step", "val_loss")}
    if roles.val_loss:
        chosen[roles.val_loss] = (at_evals, evals)
    columns, _ = join_series(chosen, {r: n for r, n in roles.columns.items() if r != "step"}, where="")
    return columns, roles


def read_objects(rows: Iterator[Numbered], given: Mapping[Role, str], bad: Bad) -> tuple[Columns, Roles]:
    """Collect objects batch by batch; a column may appear late, as those of evaluations do."""
    names: dict[str, int] = {}
    roles: Roles | None = None
    collector: Collector | None = None
    of_cells = Bad("numbers", "Mend these values, or set source.columns to name other columns")
    for first in rows:
        batch = [(row, _named(dict(_flat(item)))) for row, item in chain([first], islice(rows, _BATCH - 1))]
        for _, item in batch:
            for name, value in item.items():
                if value is None or type(value) is float or _is_number(value):
                    names[name] = names.get(name, 0) + 1
        fixed, notes = ({}, ()) if roles is None else (roles.columns, roles.notes)
        roles = find_roles(list(names), {**fixed, **given}, counts=names)
        roles = roles._replace(notes=tuple(dict.fromkeys([*notes, *roles.notes])))
        collector = collector or Collector(["lr", "grad_norm"], has_steps=roles.step is not None)
        collector.add(*_arrays(batch, roles, of_cells))
    bad.check()
    of_cells.check()
    if roles is None or collector is None:
        raise refused("must hold at least one object with a loss, got none", "Give another file")
    return collector.columns(), roles


def _arrays(batch: Sequence[Numbered], roles: Roles, bad: Bad) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Return the numbers of the columns that are used, and where they are not there; null is how many write nan."""
    columns = {role: np.full(len(batch), np.nan) for role in ("step", "loss", "lr", "grad_norm", "val_loss")}
    gaps = {role: np.ones(len(batch), dtype=bool) for role in columns}
    for role, name in roles.columns.items():
        for place, (row, item) in enumerate(batch):
            if name not in item:
                continue
            value = item[name]
            try:
                value = value if type(value) is float else number(value)
            except ValueError:
                bad.add(f"{str(item[name])[:40]!r} in row {row:,}, column {name!r}")
                continue
            gaps[role][place] = False
            if value is not None:
                columns[role][place] = value
    return columns, gaps["loss"], gaps


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _named(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object whose losses carry the split that a key of it names, as in {"mode": "val", "loss": 0.5}."""
    split = next((item[key] for key in _SPLIT_KEYS if isinstance(item.get(key), str)), "")
    if not split or not is_held_out(split):
        return item
    return {f"{split}/{key}" if may_be_loss(key) else key: value for key, value in item.items()}


def _is_number(value: Any) -> bool:
    try:
        return number(value) is not None
    except ValueError:
        return False


def _known(state: Mapping[str, Any]) -> Known:
    def whole(name: str) -> int | None:
        value = state.get(name)
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None

    return Known(total_steps=whole("max_steps"), batch_size=whole("train_batch_size"))
