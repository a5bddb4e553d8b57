"""One key that varies in a search, and what it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOG_KEYS = frozenset({"lr", "adamw_lr", "min_lr", "lr_multiplier", "weight_decay", "eps", "d_coef"})
"""keys whose intervals are on a log scale unless tagged linear, by their last part"""


@dataclass(frozen=True)
class Dimension:
    """One key of a space and what it may be.

    Attributes:
        key: dotted key, what adds it left out.
        prefix: "+" or "++" where the key is added, else "".
        text: what it may be, as given.
        kind: of its values.
        low, high: bounds, both included; 0 for a choice.
        step: distance of the values of a range; None where any value between the bounds may come.
        is_log: whether values are drawn evenly in the logarithm.
        choices: of a choice, as on the command line.
    """

    key: str
    prefix: str
    text: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    is_log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.is_log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.is_log, step=self.step)

    @property
    def meaning(self) -> str:
        """What it may be, alike for all texts that mean the same."""
        if self.kind == "choice":
            return ",".join(self.choices)
        if self.step is not None:
            return f"range({self.low:.12g} to {self.high:.12g} by {self.step:.12g})"
        tags = [
            *(["int"] if self.kind == "int" else []),
            *(["log" if self.is_log else "linear"] if self._is_tagged else []),
        ]
        text = f"interval({self.low:.12g},{self.high:.12g})"
        return f"tag({','.join(tags)},{text})" if tags else text

    @property
    def _is_tagged(self) -> bool:
        return self.is_log != is_on_log_scale(self.key)

    @property
    def values(self) -> list[Any] | None:
        """All its values, None where they cannot be counted."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "float" and self.step is None:
            return None
        step = self.step or 1
        numbers = [self.low + step * i for i in range(round((self.high - self.low) / step) + 1)]
        return [int(number) for number in numbers] if self.kind == "int" else numbers

    @property
    def ends(self) -> list[str]:
        """What is checked before a search starts, as on the command line: every choice, or both bounds.

        Between the bounds of an interval a value too, for where only whole numbers are good.
        """
        if self.kind == "choice":
            return list(self.choices)
        between = [] if self.values is not None else [self.low + (self.high - self.low) / math.e]
        return [self.written(value) for value in (self.low, *between, self.high)]

    def written(self, value: Any) -> str:
        """Return a value as on the command line: six digits are enough for a learning rate."""
        if self.kind == "choice":
            return str(value)
        if self.kind == "int":
            return str(int(value))
        short = f"{value:.6g}"
        return short if self.low <= float(short) <= self.high else repr(float(value))

    def read(self, text: str) -> Any:
        """Return the value that a text of the command line or of a record stands for; None where it has no such value.

        Raises:
            ValueError: it is no number where one is wanted.
        """
        if self.kind == "choice":
            return next((choice for choice in self.choices if _is_same(choice, text)), None)
        value = float(text)
        is_inside = self.low <= value <= self.high and (self.kind == "float" or value.is_integer())
        if not is_inside or not self._is_on_grid(value):
            return None
        return int(value) if self.kind == "int" else value

    def _is_on_grid(self, value: float) -> bool:
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-6


def _is_same(choice: str, text: str) -> bool:
    """Whether two texts stand for the same value: 1e-5 and 1e-05 do."""
    try:
        return choice == text or float(choice) == float(text)
    except ValueError:
        return choice.strip("'\"") == text


def is_on_log_scale(key: str) -> bool:
    """Whether intervals of a key are on a log scale unless tagged linear."""
    return key.rpartition(".")[2] in LOG_KEYS
