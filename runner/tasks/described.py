"""What a batch, an item or an output is made of, in a few words: for error messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

_MOST = 8


def described(value: Any) -> str:
    """Return types and shapes, such as "(float32 (64, 10), int64 (64,))"."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in list(value.items())[:_MOST]) + "}"
    if isinstance(value, tuple | list):
        items = [described(item) for item in value[:_MOST]] + (["..."] if len(value) > _MOST else [])
        return f"({', '.join(items)})"
    return "None" if value is None else type(value).__name__


def first_line(error: BaseException) -> str:
    """Return the type and the first line of what an exception says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__


def listed(names: Iterable[object], *, most: int = 8) -> str:
    """Return names as a message lists them: the first few, and how many more there are."""
    words = list(map(str, names))
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
