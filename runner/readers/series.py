"""Curves that were recorded one by one, each with steps of its own: TensorBoard tags, MLflow metrics, lists in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runner.readers.blocks import Floats
from runner.readers.collect import Collector, Columns
from runner.readers.roles import Role, Roles, find_roles

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""name -> steps and values"""


def join_series(series: Series, given: Mapping[Role, str], *, where: str) -> tuple[Columns, Roles]:
    """Return the loss with what else was recorded; learning rate and norm of a loss are the last ones before it.

    Args:
        series: name -> steps and values, in the order in which they were recorded.
        given: role -> name, as `source.columns` says.
        where: the source in words, for errors.
    Raises:
        ConfigError: none of them is the loss.
    """
    roles = find_roles(list(series), given, counts={name: len(found[0]) for name, found in series.items()}, where=where)
    companions: list[Role] = [role for role in ("lr", "grad_norm") if role in roles.columns]
    collector = Collector(companions, has_steps=True)
    chosen = {role: name for role, name in roles.columns.items() if role != "step"}
    for role in ("loss", *companions, "val_loss"):
        if role not in chosen:
            continue
        steps, values = (np.array(column, dtype=np.float64) for column in series[chosen[role]])
        batch: dict[str, Floats] = {name: np.full(len(steps), np.nan) for name in ("loss", "val_loss", *companions)}
        gaps = {"val_loss": np.full(len(steps), role != "val_loss")}
        collector.add({**batch, "step": steps, role: values}, np.full(len(steps), role != "loss"), gaps)
    return collector.columns(), roles._replace(step=None)  # each brings its own
