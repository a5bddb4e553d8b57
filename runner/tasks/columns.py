"""Columns of a table as numbers: what each one holds, and how a network is shown it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MISSING = "(missing)"
NO_VALUES = "no values"
_LARGEST = np.finfo(np.float32).max
_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal", "boolean", "empty"}
_DATES = {"date", "datetime", "datetime64"}
_ISO_DATE = r"\d{4}-\d{2}-\d{2}(?:[T ].*)?"


def plain(column: Series) -> Series:
    """Return a column either as float64 or as text (dtype object), whatever it was read as; NaN where it has no value.

    True and false become 1 and 0, dates and times days since 1970 (UTC), spans of time days. Text becomes a date when
    all of it is one, year first (ISO 8601). Infinite numbers, and numbers beyond float32, count as no value: see
    `beyond_float32`.
    """
    import pandas as pd

    holds = pd.api.types.infer_dtype(column, skipna=True)
    if holds == "string" and column.dropna().str.fullmatch(_ISO_DATE).all():
        dates = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
        holds = "datetime" if dates.isna().equals(column.isna()) else holds
    if holds in _DATES:
        since = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce") - pd.Timestamp(0, tz="UTC")
        return since / pd.Timedelta(days=1)
    if holds in ("timedelta", "timedelta64"):
        return pd.to_timedelta(column) / pd.Timedelta(days=1)
    if holds in _NUMBERS:
        numbers = _numbers(column)
        return pd.Series(np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan), index=column.index, name=column.name)
    return column.astype(object).map(str).astype(object).where(column.notna(), np.nan)


def beyond_float32(column: Series) -> str:
    """Return how many numbers of a column as it was read float32 cannot hold, in words; "" when it holds all."""
    import pandas as pd

    if pd.api.types.infer_dtype(column, skipna=True) not in _NUMBERS:
        return ""
    sizes = np.abs(_numbers(column))
    infinite = int(np.isinf(sizes).sum())
    counts = {"infinite": infinite, "beyond float32": int((sizes > _LARGEST).sum()) - infinite}
    return " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _numbers(column: Series) -> Any:
    return column.to_numpy(dtype="float64", na_value=np.nan)


def is_text(column: Series) -> bool:
    """Whether a plain column holds text."""
    return bool(column.dtype == object)


class Encoder:
    """Turns rows of plain columns into vectors, as fitted on the rows that it is made with.

    Numbers: the median where there is none, then mean 0 and standard deviation 1, and for every column that lacks some
    a further one that is 1 there. Text: one column a category (one-hot), the rarest together in one; a category that
    was not there is taken for a rare one, or is all zeros where there are none. Left out is what teaches nothing: a
    column without values, one that is always the same, the number of the row, and text with more
    different values than half of the rows that have one (names, ids).

    Args:
        table: the rows to fit on, the target not among their columns.
        max_categories: columns that one text column becomes at most; >= 2.
    Attributes:
        left_out: column -> why it is left out.
        width: length of the vectors; 0 when no column is left.
    """

    def __init__(self, table: DataFrame, *, max_categories: int) -> None:
        reasons = {name: _why_useless(table[name]) for name in table}
        self.left_out = {name: reason for name, reason in reasons.items() if reason}
        kept = [name for name, reason in reasons.items() if not reason]
        self._texts = [name for name in kept if is_text(table[name])]
        numbers = [name for name in kept if not is_text(table[name])]
        self._transformer = _transformer(numbers, self._texts, max_categories)
        self.width = self._transformer.fit_transform(self._filled(table)).shape[1] if kept else 0

    def encode(self, table: DataFrame) -> Tensor:
        """Return the vectors of rows, float32, shape (rows, width)."""
        return torch.from_numpy(self._transformer.transform(self._filled(table)).astype(np.float32))

    def _filled(self, table: DataFrame) -> DataFrame:
        return table.fillna(dict.fromkeys(self._texts, MISSING))


def _why_useless(column: Series) -> str:
    """Return why a column teaches nothing, "" when it does."""
    values = column.nunique()
    if values == 0:
        return NO_VALUES
    if values == 1 and column.notna().all():
        return "always the same"
    if is_text(column) and values > column.count() / 2:
        return f"text with {values:,} different values in {column.count():,} rows"
    is_row_number = not is_text(column) and any((column == column.index + first).all() for first in (0, 1))
    return "the number of the row" if is_row_number else ""


def _transformer(numbers: list[Any], texts: list[Any], max_categories: int) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = OneHotEncoder(
        max_categories=max_categories, handle_unknown="infrequent_if_exist", sparse_output=False, dtype=np.float32
    )
    return ColumnTransformer(
        [
            ("numbers", scaled, numbers),
            ("missing", MissingIndicator(error_on_new=False), numbers),
            ("categories", categories, texts),
        ],
        sparse_threshold=0,
    )
