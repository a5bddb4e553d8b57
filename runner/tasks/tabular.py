"""Any table in a file: predict one column from the others. Default: scikit-learn's breast cancer set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from pydantic import validate_call
from torch import Tensor, nn

from runner.errors import ConfigError, Problem, nearest
from runner.tasks.columns import NO_VALUES, Encoder, beyond_float32, is_text, plain
from runner.tasks.described import listed
from runner.tasks.mlp import mlp
from runner.tasks.protocol import LossSum, Scores
from runner.tasks.scores import Goal, classification, regression
from runner.tasks.table import read_table
from runner.tasks.tensors import TensorData, entropy, fingerprint

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SPLIT_SEED = 0
MAX_VALUES = 20
_FARTHEST = 1e15  # of a target: the squares of a hundred million errors of this size add up within float32
Kind = Literal["classification", "regression"]


class Tabular:
    """Predict a column of a table with an MLP.

    Classification: loss is the cross entropy in nats; metrics are accuracy, auroc (two classes, both in the val
    split), f1 (mean over more than two classes). Regression: loss is the mean squared error of the standardised
    target; metrics are r2, and mae and rmse in the unit of the target.

    The kind is found from the target: text, categories and true/false are classes; so are whole numbers with at most
    20 different values; other numbers, and dates (as days), are a regression. Rows without a target are left out. The
    split is the same for every seed, and stratified where every class has a place in both splits. How the other columns
    become numbers, fitted on the training split alone, says `runner.tasks.columns.Encoder`.

    Args:
        path: CSV or Parquet file; None takes scikit-learn's breast cancer set (569 x 30, its column "target" is 1 for
            a benign tumour).
        target: column to predict; must be given with a path.
        kind: "auto" finds it from the target.
        drop: columns to leave out.
        separator: what stands between the values of a CSV.
        missing: texts in a CSV that mean "no value", besides the empty one, NA, nan, null and their like.
        val_fraction: share of the rows that validate; in (0, 1).
        max_categories: columns that a text column becomes at most, the rarest categories together in one.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit; in [0, 1).
        batch_size: examples per optimizer step, from the run.
        seed: order of the data, from the run.
    Attributes:
        remarks: what was left out of the data, a sentence each.
        classes: the classes in the order of the logits; empty in a regression.
    Raises:
        ConfigError: the file, the target or the columns cannot be used; all that can be known at once is named.
    """

    prior_entropy: float | None = None

    @validate_call
    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        path: str | None = None,
        target: str | int | None = None,
        kind: Literal["auto", "classification", "regression"] = "auto",
        drop: Sequence[str | int] = (),
        separator: Literal["auto", "comma", "semicolon", "tab", "bar"] = "auto",
        missing: Sequence[str] = ("?",),
        val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2,
        max_categories: Annotated[int, Ge(2)] = 20,
        hidden: Sequence[Annotated[int, Ge(1)]] = (64, 64),
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        self.hidden, self.dropout = tuple(hidden), dropout
        table = _breast_cancer() if path is None else read_table(path, separator=separator, missing=missing)
        name = "target" if path is None and target is None else None if target is None else str(target)
        dropped = [str(column) for column in drop]
        problems = _column_problems(table, name, dropped)
        if name is None or name not in table:
            raise ConfigError(problems)
        values = plain(table[name]).dropna()
        self.kind: Kind = _find_kind(table[name], values) if kind == "auto" else kind
        problems += _target_problems(name, table[name], values, kind=self.kind, val_fraction=val_fraction)
        if problems:
            raise ConfigError(problems)
        train, val = _split(values, self.kind, val_fraction)
        written = table.drop(columns=[name, *dropped]).loc[values.index]
        features, odd = written.apply(plain), {column: beyond_float32(written[column]) for column in written}
        encoder = Encoder(features.loc[train.index], max_categories=max_categories)
        left_out = {
            column: (odd[column] or reason) if reason == NO_VALUES else reason
            for column, reason in encoder.left_out.items()
        }
        self.remarks = _remarks(name, len(table) - len(values), len(table), left_out, odd)
        if encoder.width == 0:
            rule = f"must have a column to learn from besides the target, got {_reasons(left_out)}"
            raise ConfigError([Problem("task.path", rule, "Add columns")])
        self._width = encoder.width
        self.classes: tuple[Any, ...] = ()
        self._scale = 1.0
        inputs = [encoder.encode(features.loc[part.index]) for part in (train, val)]
        targets = self._targets(train, val)
        self.digest = fingerprint(*inputs, *targets)
        splits = dict(zip(("train", "val"), zip(inputs, targets, strict=True), strict=True))
        self._data = TensorData(splits, batch_size=batch_size, seed=seed)
        self.examples = self._data.examples
        self.goals: Mapping[str, Goal] = self._find_goals(targets[1])

    def _targets(self, train: Series, val: Series) -> tuple[Tensor, Tensor]:
        """Return the targets as the loss takes them, and keep what the metrics need to know of them."""
        if self.kind == "regression":
            mean, self._scale = float(train.mean()), float(train.std(ddof=0))
            if problem := _spread_problem(train, val, self._scale):
                raise ConfigError([problem])
            return _floats((train - mean) / self._scale), _floats((val - mean) / self._scale)
        self.classes = tuple(sorted({*train, *val}))
        codes = {label: code for code, label in enumerate(self.classes)}
        targets = torch.tensor(train.map(codes).to_numpy()), torch.tensor(val.map(codes).to_numpy())
        self.prior_entropy = entropy(targets[0])
        return targets

    def _find_goals(self, val: Tensor) -> Mapping[str, Goal]:
        if self.kind == "regression":
            return {"loss": "min", "r2": "max", "mae": "min", "rmse": "min"}
        if len(self.classes) > 2:
            return {"loss": "min", "accuracy": "max", "f1": "max"}
        if int(val.min()) == int(val.max()):  # the area under the curve takes both classes
            return {"loss": "min", "accuracy": "max"}
        return {"loss": "min", "accuracy": "max", "auroc": "max"}

    def model(self) -> nn.Module:
        """Return a freshly initialised network: (n, columns) -> (n, classes) logits, or (n, 1) in a regression."""
        return mlp(self._width, self.hidden, len(self.classes) or 1, dropout=self.dropout)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        """Return (rows float32 (n, columns), targets (n,)) of a slice of a batch, None when it is empty.

        Targets are classes, int64, or standardised, float32.
        """
        return self._data.batch(step, split, part)

    def weight(self, batch: tuple[Tensor, ...]) -> float:
        """Return the number of examples."""
        return len(batch[1])

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        """Return the cross entropy in nats, or the squared error of the standardised target, summed over the batch."""
        inputs, targets = batch
        outputs = apply(inputs)
        if self.kind == "regression":
            outputs = outputs.squeeze(-1)
            total = nn.functional.mse_loss(outputs, targets, reduction="sum")
        else:
            total = nn.functional.cross_entropy(outputs, targets, reduction="sum")
        return LossSum(total, len(targets), outputs)

    def logits(self, outputs: Tensor) -> Tensor | None:
        """Return the outputs of a classification, None in a regression."""
        return outputs if self.kind == "classification" else None

    def scores(self) -> Scores:
        """Return the metrics of `goals` beside the loss."""
        if self.kind == "regression":
            return regression(self._scale)
        return classification([name for name in self.goals if name != "loss"], len(self.classes))


def _breast_cancer() -> DataFrame:
    from sklearn.datasets import load_breast_cancer

    table: DataFrame = load_breast_cancer(as_frame=True).frame
    return table


def _column_problems(table: DataFrame, target: str | None, drop: Sequence[str]) -> list[Problem]:
    """Return what is wrong with the names of columns that were given."""
    names = list(table)
    if target is None:
        rule = f"must be the column to predict (columns: {listed(names)}), got null"
        problems = [Problem("task.target", rule, f"Set task.target={names[-1]}, if that is it")]
    elif target not in names:
        problems = [_no_such_columns("task.target", [target], names)]
    else:
        problems = []
    unknown = [name for name in drop if name not in names]
    if unknown:
        problems.append(_no_such_columns("task.drop", unknown, names))
    elif target in drop:
        problems.append(Problem("task.drop", f"must not hold the target, got {target!r}", "Take it out"))
    elif set(names) <= {target, *drop}:
        rule = f"must leave a column to learn from, got all {len(names) - 1} besides the target"
        problems.append(Problem("task.drop", rule, "Drop fewer" if drop else "Add columns to the table"))
    return problems


def _no_such_columns(key: str, unknown: Sequence[str], names: Sequence[str]) -> Problem:
    close = [nearest(name, names) for name in unknown]
    fix = f"Did you mean {listed(close)}" if all(close) else f"Columns: {listed(names)}"
    return Problem(key, f"must be a column of the table, got {', '.join(map(repr, unknown))}", fix)


def _find_kind(written: Series, values: Series) -> Kind:
    import pandas as pd

    is_class = is_text(values) or pd.api.types.infer_dtype(written, skipna=True) == "boolean"
    few_whole = not is_class and values.nunique() <= MAX_VALUES and bool((values % 1 == 0).all())
    return "classification" if is_class or few_whole else "regression"


def _target_problems(target: str, written: Series, values: Series, *, kind: Kind, val_fraction: float) -> list[Problem]:
    """Return why the target cannot be learned as it is; `values` are what `plain` makes of the column as written."""
    if odd := beyond_float32(written):
        rule = f"must hold finite numbers that float32 holds, got {target!r} with {odd}"
        return [Problem("task.target", rule, "Mend these rows, take them out, or give the target in another unit")]
    if values.empty:
        return [Problem("task.target", f"must have values, got {target!r} without any", "Choose another column")]
    counts = values.value_counts()
    if kind == "regression" and is_text(values):
        rule = f"must be classification for the text in column {target!r}, got 'regression'"
        return [Problem("task.kind", rule, "Set task.kind=classification")]
    if len(counts) == 1:
        what = "vary" if kind == "regression" else "have at least two classes"
        rule = f"must {what}, got {target!r}, always {counts.index[0]}"
        return [Problem("task.target", rule, "Choose another column")]
    problems = []
    single = sorted(counts.index[counts == 1])
    if kind == "classification" and single:
        rule = f"must have at least two rows of every class, got one of {listed(single)}"
        other = "" if is_text(values) else ", or set task.kind=regression"
        problems.append(Problem("task.target", rule, f"Join rare classes or take out their rows{other}"))
    val = _val_rows(len(values), val_fraction)
    if min(val, len(values) - val) < 2:
        rule = f"must leave at least 2 rows in each split, got {val_fraction:g} of {len(values)} rows"
        problems.append(
            Problem("task.val_fraction", rule, "Give more rows" if len(values) < 4 else "Set it nearer 0.5")
        )
    return problems


def _spread_problem(train: Series, val: Series, scale: float) -> Problem | None:
    """Return why a regression cannot be standardised, or its errors not be squared in float32."""
    name, largest = train.name, max(float(train.abs().max()), float(val.abs().max()))
    if train.min() == train.max():
        rule = f"must vary in the rows that train, got {name!r}, there always {train.iloc[0]:g}"
        return Problem("task.target", rule, "Set another task.val_fraction, or choose another column")
    if scale < 1 / _FARTHEST or largest > _FARTHEST:
        rule = (
            f"must spread by at least {1 / _FARTHEST:g} and lie within {_FARTHEST:g}, as errors are squared in float32"
        )
        given = f"got {name!r} with a standard deviation of {scale:.3g} and values up to {largest:.3g}"
        return Problem("task.target", f"{rule}, {given}", "Give the target in another unit")
    return None


def _val_rows(rows: int, val_fraction: float) -> int:
    return math.ceil(rows * val_fraction)


def _split(values: Series, kind: Kind, val_fraction: float) -> tuple[Series, Series]:
    from sklearn.model_selection import train_test_split

    val_rows, classes = _val_rows(len(values), val_fraction), values.nunique()
    stratify = values if kind == "classification" and classes <= min(val_rows, len(values) - val_rows) else None
    train, val = train_test_split(values, test_size=val_rows, stratify=stratify, random_state=SPLIT_SEED)
    return train, val


def _floats(values: Series) -> Tensor:
    return torch.from_numpy(values.to_numpy(dtype=np.float32))


def _remarks(target: str, missing: int, rows: int, left_out: Mapping[str, str], odd: Mapping[str, str]) -> list[str]:
    remarks = [f"task.target: {missing:,} of {rows:,} rows have no {target!r} and are left out."] if missing else []
    if left_out:
        remarks.append(f"task.drop: {_reasons(left_out)} left out. Name them in task.drop to agree.")
    if kept := {column: what for column, what in odd.items() if what and column not in left_out}:
        remarks.append(f"task.path: {_reasons(kept)} count as missing. Mend the file, or give them in another unit.")
    return remarks


def _reasons(left_out: Mapping[str, str]) -> str:
    return listed([f"{name} ({reason})" for name, reason in left_out.items()])
