"""backend=auto: a short measurement tells whether lanes pay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.build import build
from runner.config import Config
from runner.errors import RunnerError, in_words
from runner.lanes.lane import Lane
from runner.lanes.refusal import WAY_OUT, why_not

_LANES = 16  # enough to tell: more pay more
_STEPS = 10


class Choice(NamedTuple):
    """What makes the runs of a batch, and why."""

    is_lanes: bool
    why: str


def choose(configs: Sequence[Config], *, width: int) -> Choice:
    """Return whether runs are made in lanes, by the time that a step takes in both ways.

    Args:
        configs: checked, of the runs.
        width: most lanes at once.
    """
    count = min(len(configs), width, _LANES)
    try:
        first = build(configs[0]).parts()
        if (reason := why_not([first])) is not None:
            return Choice(False, f"one after another, as lanes cannot be: {reason.removesuffix(f'. {WAY_OUT}.')}")
        together = _pace(configs[:count])
        alone = _pace(configs[:1])
    except RunnerError as error:  # whatever it is, the run itself tells it
        return Choice(False, f"one after another, as a trial in lanes failed: {in_words(error)}")
    lanes, turns = 1e3 * together, 1e3 * alone * count
    faster = f"a step of {count} runs takes {lanes:.3g} ms in lanes and {turns:.3g} ms one after another"
    return Choice(lanes < turns, f"{'lanes' if lanes < turns else 'one after another'}, as {faster}")


def _pace(configs: Sequence[Config]) -> float:
    """Return the seconds that a step of runs takes, in lanes where they are several."""
    from runner.estimate import Stopwatch, WeighedCheckpoints, trial_plan
    from runner.lanes.engine import fit_lanes
    from runner.train.loop import fit

    watches = [Stopwatch(_STEPS, watch_every=1) for _ in configs]
    parts = list[dict[str, Any]]()
    for config in configs:
        experiment = build(config)
        parts.append(experiment._replace(plan=trial_plan(experiment.plan)).parts())
    nothing = WeighedCheckpoints(Path(os.devnull))
    if len(parts) == 1:
        fit(**parts[0], checkpoints=nothing, on_record=lambda record: None, interrupted=watches[0])
    else:
        lanes = [Lane(one, nothing, lambda record: None, watch) for one, watch in zip(parts, watches, strict=True)]
        fit_lanes(lanes, width=len(lanes))
    return watches[0].pace().typical
