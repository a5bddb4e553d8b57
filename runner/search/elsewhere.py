"""Trials of a study that other sweeps have made, or that were known: what the report of this one counts too."""

from __future__ import annotations

import math

from runner.config import Config
from runner.finding.observed import KNOWN, Observed
from runner.rates import steps_of
from runner.search.space import varied_texts
from runner.search.study import KNOWN as SOURCE
from runner.search.study import STATUS, Study
from runner.search.trials import LOSSES
from runner.sweep_summary import SEED
from runner.tracking.sweep_observed import group_of


def made_elsewhere(study: Study, config: Config) -> list[Observed]:
    """Return the runs of a study that ended and are none of this sweep; none where it is not about one loss.

    Args:
        study: with trials of all that share it.
        config: of a trial; the study says nothing of seeds and lengths that it does not vary.
    """
    key, plan = config.optimizer.lr_key, study.plan
    if plan.metrics[0] not in LOSSES or len(plan.metrics) > 1:
        return []
    trials = [(trial, varied_texts(plan.space, trial.params)) for trial in study.elsewhere()]
    trials = [(trial, varied) for trial, varied in trials if key in varied]
    declared = steps_of(config) if trials else 0
    longest = dict[str, int]()  # a space may have what decides how long a run is
    for trial, varied in trials:
        if (group := group_of(varied, key)) and trial.user_attrs.get(STATUS) == "finished":
            longest[group] = max(longest.get(group, 0), trial.user_attrs.get("steps") or 0)
    found = []
    for trial, varied in trials:
        said, group = trial.user_attrs, group_of(varied, key)
        is_finished = said.get(STATUS) == "finished"
        steps = longest.get(group) or declared
        found.append(
            Observed(
                lr=float(varied[key]),
                seed=int(varied.get(SEED, config.seed)),
                loss=float(trial.values[0]) if is_finished else math.nan,
                status="finished" if is_finished else "diverged",
                group=group,
                steps=said.get("steps") or steps,
                planned_steps=steps,
                run=str(said.get("run") or said.get(SOURCE, "")),
                purpose=KNOWN,
            )
        )
    return found
