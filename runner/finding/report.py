"""The one report of a learning-rate sweep or search, whatever asked for the runs."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from runner.curves import number
from runner.finding.compare import Comparison, compare
from runner.finding.failures import SAFE_RATIO
from runner.finding.group import GroupReport, report_of_group
from runner.finding.observed import KNOWN, VERIFY, Observed

LR = "optimizer.lr"
MOST_GROUPS = 6  # that are told apart where each has a learning rate or two only
MANY = 5  # comparisons, from which on chance is worth a word


@dataclass(frozen=True)
class Cost:
    """What was spent, in multiples of one full run: updates over the updates of a full run.

    Attributes:
        runs: number of runs that made an update, those that verify and those that were known left out.
        full_runs: their updates and those of a range test, in full runs.
        verify_runs: number of runs that verified the result.
        verify_full_runs: their updates.
        range_test: updates of the range test that it began with, in full runs; 0 without one.
    """

    runs: int
    full_runs: float
    verify_runs: int
    verify_full_runs: float
    range_test: float = 0.0


@dataclass(frozen=True)
class LRReport:
    """What was found of the learning rate.

    Attributes:
        key: what was varied: optimizer.lr, or optimizer.d_coef.
        loss: name of the loss, such as "val loss".
        groups: one for each of what else was varied, the one with the smallest loss to be expected at its
            recommendation first (`GroupReport.likely_loss`).
        comparisons: the first group against each of the others.
        cost: of all runs.
        fixed: what was not varied and the result depends on: dotted key -> value.
        notes: what else must be known of these numbers.
        runs: what it rests on.
        asked: what made them, which says how more are made: multirun; the modes sweep and search; study, a search by a
            sampler; sweep.space and search.space, where that says what varies; search.choice, where it lists the rates.
    """

    key: str
    loss: str
    groups: tuple[GroupReport, ...]
    comparisons: tuple[Comparison, ...]
    cost: Cost
    fixed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    runs: tuple[Observed, ...] = ()
    asked: str = "multirun"

    @property
    def best(self) -> GroupReport:
        """The group to use: the first."""
        return self.groups[0]

    def override_line(self, group: GroupReport | None = None) -> str:
        """Return the overrides that use the recommendation of a group (the best one), "" where there is none."""
        group = group or self.best
        if math.isnan(group.recommended):
            return ""
        return f"{group.name} {self.key}={number(group.recommended)}".strip()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values for JSON; what is not known is None, infinite numbers are spelled."""
        data: dict[str, Any] = _plain(self)
        data["groups"] = [{**_flat(group), "override": self.override_line(group)} for group in self.groups]
        return data


def lr_report(
    observed: Sequence[Observed],
    *,
    full_steps: int | None = None,
    key: str = LR,
    loss: str = "loss",
    fixed: Mapping[str, str] | None = None,
    safety: float = SAFE_RATIO,
    range_test: float = 0.0,
    notes: Sequence[str] = (),
    asked: str = "multirun",
) -> LRReport:
    """Report what runs tell about the learning rate.

    Args:
        observed: the runs, at least one; a later one with the same group, rate, seed, length and purpose replaces an
            earlier one.
        full_steps: updates of a full run; None takes, group by group, the longest that was declared. Shorter runs tell
            of failures and cost, and are not part of the curve.
        key: dotted key of the learning rate.
        loss: name of the loss.
        fixed: what was not varied.
        safety: a recommendation is at most the largest stable rate over this, >= 1.
        range_test: what a range test took before the first run, in full runs.
        notes: what else must be known.
        asked: what made the runs.
    Raises:
        ValueError: there is no run.
    """
    if not observed:
        raise ValueError("observed: there must be a run, got none.")
    runs, merged = _merged(_once(observed))
    names = dict.fromkeys(one.group for one in runs)
    groups = [
        report_of_group(name, [one for one in runs if one.group == name], full_steps, safety=safety) for name in names
    ]
    groups.sort(key=lambda group: math.inf if math.isnan(group.likely_loss) else group.likely_loss)
    comparisons, more = _compare(groups)
    cost = _cost(runs, groups, range_test)
    said = (*notes, *merged, *more)
    return LRReport(key, loss, tuple(groups), comparisons, cost, dict(fixed or {}), said, tuple(runs), asked)


def _once(observed: Sequence[Observed]) -> list[Observed]:
    """Return the last run of those that are alike."""
    found = {(o.group, o.lr, o.seed, o.planned_steps, o.purpose == VERIFY): o for o in observed}
    return list(found.values())


def _merged(runs: list[Observed]) -> tuple[list[Observed], tuple[str, ...]]:
    """Return the runs as one group where there are many groups that no curve can be drawn of, and say so."""
    rates: dict[str, set[float]] = {}
    for one in runs:
        rates.setdefault(one.group, set()).add(one.lr)
    if len(rates) <= MOST_GROUPS or statistics.median(map(len, rates.values())) > 2:
        return runs, ()
    keys = list(dict.fromkeys(word.partition("=")[0] for name in rates for word in shlex.split(name)))
    also = f"{', '.join(keys)} had {len(rates)} settings with a learning rate or two each"
    text = f"{also}: the curve is over all of them, and its scatter is theirs too."
    return [one._replace(group="") for one in runs], (text,)


def _compare(groups: Sequence[GroupReport]) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Compare the first group with each of the others."""
    with_loss = [group for group in groups if group.compared is not None]
    if len(with_loss) < 2:
        return (), ()
    if any(word.startswith(("task=", "task.")) for group in groups for word in shlex.split(group.name)):
        return (), ("The tasks differ: their losses are not compared.",)
    best, *others = with_loss
    found = []
    for other in others:
        assert best.compared is not None
        assert other.compared is not None
        lrs, seeds = (best.compared.lr, other.compared.lr), (best.compared.by_seed, other.compared.by_seed)
        found.append(compare(best.name, other.name, lrs, *seeds, cut=(bool(best.missing.end), bool(other.missing.end))))
    counts = {len(group.rates) for group in with_loss}
    notes = []
    if len(counts) > 1:
        notes.append("The groups were tried with different numbers of learning rates, which favours those with more.")
    if len(found) >= MANY:
        notes.append(f"Of {len(found)} comparisons, one in 20 shows a difference by chance.")
    return tuple(found), tuple(notes)


def _cost(runs: Sequence[Observed], groups: Sequence[GroupReport], range_test: float) -> Cost:
    full = {group.name: group.runs.full_steps for group in groups}
    spent = {True: [0, 0.0], False: [0, 0.0]}
    for one in runs:
        if one.steps > 0 and full[one.group] > 0 and one.purpose != KNOWN:
            tally = spent[one.purpose == VERIFY]
            tally[0] += 1
            tally[1] += one.steps / full[one.group]
    return Cost(int(spent[False][0]), spent[False][1] + range_test, int(spent[True][0]), spent[True][1], range_test)


def _flat(group: GroupReport) -> dict[str, Any]:
    """Return a group as plain values, its parts beside each other."""
    data: dict[str, Any] = _plain(group)
    advice, missing, runs = data.pop("advice"), data.pop("missing"), data.pop("runs")
    data["safety_ratio_is_at_least"] = not group.advice.edge.is_known
    data |= {**advice, **missing, **runs, "recommended": advice["lr"], "best_lr": _plain(group.best_lr)}
    del data["lr"]
    if group.verified is not None:
        data["verified"] |= {"mean": _plain(group.verified.mean), "sd": _plain(group.verified.sd)}
    if group.basin is not None:
        data["basin"]["decades"] = group.basin.decades
    if group.windowed is not None:
        data["windowed"]["decades"] = group.windowed.decades
    data["slopes"]["ratio"] = _plain(group.slopes.ratio)
    return data


def _plain(value: Any) -> Any:
    """Return plain values: records by name, nan as None, infinite numbers spelled."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
