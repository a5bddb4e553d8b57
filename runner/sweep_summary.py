"""What a sweep found: jobs grouped over seeds, with mean and standard deviation, best settings first."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEED = "seed"
PURPOSE_TAG = "tags.purpose"  # of a trial: what a search made it for


class Outcome(NamedTuple):
    """What one job came to.

    Attributes:
        varied: override key -> value, for the keys that differ between jobs.
        status: finished, diverged, interrupted, failed or waiting.
        final: loss at the end, in the task's unit; nan when there is none.
        best: smallest loss of an evaluation; nan when there is none.
    """

    varied: Mapping[str, str]
    status: str
    final: float = math.nan
    best: float = math.nan


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1) of the finite values; nan where there are too few."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of the values that are finite."""
        finite = [value for value in values if math.isfinite(value)]
        mean = statistics.mean(finite) if finite else math.nan  # exact: fmean overflows near the largest float
        return cls(mean, statistics.stdev(finite) if len(finite) > 1 else math.nan)


@dataclass(frozen=True)
class Setting:
    """Jobs that differ in their seed only.

    Attributes:
        varied: override key -> value, the seed and the purpose of a trial left out.
        seeds: number of jobs.
        final: loss at the end, over the jobs that finished; over those interrupted where none did.
        best: smallest loss of an evaluation, over the same jobs.
        statuses: status -> number of jobs.
        broken: number of jobs that finished with a loss that is nan or infinite.
    """

    varied: Mapping[str, str]
    seeds: int
    final: Spread
    best: Spread
    statuses: Mapping[str, int]
    broken: int = 0

    @property
    def verdict(self) -> str:
        """How the jobs ended, such as "2 finished, 1 diverged"."""
        return in_numbers(self.statuses) + (f" ({self.broken} with a loss that is not finite)" if self.broken else "")


def summarise(outcomes: Sequence[Outcome]) -> list[Setting]:
    """Group jobs over their seeds and sort the settings: smallest final loss first.

    Only finished jobs enter the numbers, or those interrupted where none has finished. Settings in which all jobs
    finished come first, then those with one left to do, then those with one that diverged, failed or finished with a
    loss that is not finite; settings without a number come last; equals keep their order.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple((k, v) for k, v in outcome.varied.items() if is_setting(k)), []).append(outcome)
    settings = [_setting(dict(key), jobs) for key, jobs in groups.items()]
    return sorted(settings, key=_rank)


def is_setting(key: str) -> bool:
    """Whether jobs that differ in a key are compared by it: all keys but the seed and what a trial was made for."""
    return key.lstrip("+") not in (SEED, PURPOSE_TAG)


def in_numbers(statuses: Mapping[str, int]) -> str:
    """Return how many jobs ended how, the good ones first."""
    order = ("finished", "diverged", "failed", "pruned", "interrupted", "running", "waiting")
    words = {"waiting": "not started"}
    return ", ".join(f"{statuses[name]} {words.get(name, name)}" for name in order if statuses.get(name))


def _setting(varied: Mapping[str, str], jobs: Sequence[Outcome]) -> Setting:
    done = [job for job in jobs if job.status == "finished"] or [job for job in jobs if job.status == "interrupted"]
    final, best = Spread.of(job.final for job in done), Spread.of(job.best for job in done)
    broken = sum(job.status == "finished" and not math.isfinite(job.final) for job in jobs)
    return Setting(varied, len(jobs), final, best, Counter(job.status for job in jobs), broken)


def _rank(setting: Setting) -> tuple[bool, bool, bool, float]:
    mean = setting.final.mean
    is_bad = bool({"diverged", "failed"} & setting.statuses.keys() or setting.broken)
    return (
        math.isnan(mean),
        is_bad,
        not is_bad and setting.statuses.keys() != {"finished"},
        0.0 if math.isnan(mean) else mean,
    )
