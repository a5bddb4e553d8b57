"""backend=auto: lanes where they can be and pay, one run after another where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.config import Config
from runner.trials.trial import Batch, Trial

if TYPE_CHECKING:
    from runner.trials.beside import Beside
    from runner.trials.choose import Choice


@dataclass
class Known:
    """What is known of runs of one kind.

    Fewer lanes gain less: what pays for some runs pays for more of them, and what does not, not for fewer.

    Attributes:
        width: most lanes at once that memory has room for, as far as was tried.
        pays_from: fewest runs that were found to be faster in lanes.
        pays_not_to: most that were found not to be.
    """

    width: int
    pays_from: float = math.inf
    pays_not_to: float = 1

    def tells(self, runs: int) -> bool | None:
        """Return whether so many runs are faster in lanes; None where that is not known."""
        count = min(runs, self.width)
        if count >= self.pays_from:
            return True
        return False if count <= self.pays_not_to else None

    def learn(self, runs: int, choice: Choice) -> None:
        """Take in what was measured with so many runs."""
        self.width = min(self.width, choice.width)
        if choice.is_lanes:
            self.pays_from = min(runs, self.width)
        else:
            self.pays_not_to = math.inf if choice.is_for_any else min(runs, self.width)


class Auto:
    """Measures what pays, once for runs of a kind, and anew where that does not tell for as many as there are now.

    Args:
        width: most lanes at once.
        beside: is started when lanes are chosen.
        quiet: do not say which, and why.
    """

    def __init__(self, width: int, beside: Beside, *, quiet: bool) -> None:
        self._width = width
        self._beside = beside
        self._quiet = quiet
        self._known = dict[str, Known]()
        self._told = dict[str, bool]()

    def prepare(self, configs: Sequence[Config]) -> None:
        """Measure what is not known for runs."""
        from runner.trials.in_lanes import kind_of

        kinds = dict[str, list[Config]]()
        for config in configs:
            kinds.setdefault(kind_of(config), []).append(config)
        for kind, alike in kinds.items():
            self._pays(kind, alike, of_some=len(kinds) > 1)

    def run(self, trials: Sequence[Trial], batch: Batch) -> None:
        """Make the runs."""
        from runner.trials.in_lanes import kind_of, run_in_lanes
        from runner.trials.in_turn import run_in_turn

        kinds, in_turn = dict[str, list[Trial]](), list[Trial]()
        for trial in trials:
            kinds.setdefault(kind_of(trial.config), []).append(trial)
        for kind, alike in kinds.items():
            if self._pays(kind, [trial.config for trial in alike], of_some=len(kinds) > 1):
                run_in_lanes(alike, batch, width=self._known[kind].width)
            else:
                in_turn += alike
        run_in_turn(in_turn, batch)

    def _pays(self, kind: str, alike: Sequence[Config], *, of_some: bool) -> bool:
        """Return whether runs of a kind are made in lanes, measured where it is not known."""
        from runner.trials.choose import choose

        known = self._known.setdefault(kind, Known(self._width))
        pays = known.tells(len(alike))
        if pays is None:
            choice = choose(alike, width=known.width)
            known.learn(len(alike), choice)
            if not self._quiet and choice.is_lanes != self._told.get(kind):
                print(f"sweep.backend{' of some runs' if of_some else ''}: {choice.why}", flush=True)
            self._told[kind] = pays = choice.is_lanes
            if pays:
                self._beside.start(runs=len(alike))
        return pays
