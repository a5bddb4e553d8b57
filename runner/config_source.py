"""The sections of a page that say what modes read that do not train, and what mode=preview shows."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import Field

from runner.config_types import Loss, Section


class Preview(Section):
    """What mode=preview shows, and where it writes it; null is a new directory under runs/."""

    schedules: list[Annotated[str, MinLen(1)]] = Field(default_factory=list)
    directory: Annotated[str, MinLen(1)] | None = None


class Columns(Section):
    """Names of columns, where they are not to be found by themselves."""

    step: Annotated[str, MinLen(1)] | None = None
    loss: Annotated[str, MinLen(1)] | None = None
    lr: Annotated[str, MinLen(1)] | None = None
    grad_norm: Annotated[str, MinLen(1)] | None = None
    val_loss: Annotated[str, MinLen(1)] | None = None


class Source(Section):
    """What a mode reads: a path, or losses as they are."""

    path: str | None = None
    values: list[Loss] | None = None
    columns: Columns = Columns()


def source_section(value: Any) -> Any:
    """Return the section that `source: <path>` on a page, or null, stands for."""
    return {"path": value} if value is None or isinstance(value, str) else value
