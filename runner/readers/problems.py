"""What is wrong with a source: the first of many in words, the others counted."""

from __future__ import annotations

from runner.errors import ConfigError, Problem

MOST_SAID = 5
TRIED = (
    "CSV, JSONL, JSON with log_history or lists, TensorBoard events, plain numbers, lines of a log as 'loss: 2.5', "
    "a run directory, an MLflow run"
)


class Bad:
    """Faults of one kind as they are found.

    Args:
        wanted: what the source must hold.
        fix: what to do about it.
    """

    def __init__(self, wanted: str, fix: str) -> None:
        self._wanted, self._fix = wanted, fix
        self.count = 0
        self._said: list[str] = []

    def add(self, text: str) -> None:
        """Take one more fault."""
        self.count += 1
        if self.count <= MOST_SAID:
            self._said.append(text)

    def problems(self) -> list[Problem]:
        """Return what there is to say: nothing, or one problem."""
        if not self.count:
            return []
        more = f" and {self.count - MOST_SAID:,} more" if self.count > MOST_SAID else ""
        return [Problem("source", f"must hold {self._wanted}, got {'; '.join(self._said)}{more}", self._fix)]

    def check(self) -> None:
        """Raise what there is to say.

        Raises:
            ConfigError: there is something.
        """
        if self.count:
            raise ConfigError(self.problems())


def refused(rule: str, fix: str, *, key: str = "source") -> ConfigError:
    """Return the error of a source that cannot be read."""
    return ConfigError([Problem(key, rule, fix)])
