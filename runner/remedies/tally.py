"""What remedies did in a run, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from runner.records import Action


def tally(actions: Sequence[Action], *, steps: int, planned_steps: int) -> dict[str, float]:
    """Count the actions by type, the updates that rollbacks threw away and those that probes made.

    compute_ratio = (steps + extra_steps) / planned_steps; a rollback keeps the step, so it makes no run longer.

    Args:
        actions: all of a run.
        steps: made.
        planned_steps: declared; > 0.
    Returns:
        type of action -> number, `rewound_steps`, `extra_steps`, `compute_ratio`; {} without an action.
    """
    if not actions:
        return {}
    rewound, extra = (sum(a.arguments.get(key, 0) for a in actions) for key in ("rewound_steps", "extra_steps"))
    cost = {"rewound_steps": rewound, "extra_steps": extra, "compute_ratio": (steps + extra) / planned_steps}
    return {**Counter[str](action.type for action in actions), **cost}
