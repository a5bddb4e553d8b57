"""The sections of a page that say which runs a sweep or a search makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, Field, PlainSerializer, Strict

from runner.config_types import Count, Finite, Positive, Section, integral
from runner.tracking.address import masked


def _flat(space: Any) -> Any:
    """Return a space with dotted keys for sections inside sections, as the command line may make them."""
    return dict(_leaves(space)) if isinstance(space, Mapping) else space


def _leaves(space: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in space.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{below}", item) for below, item in _leaves(value))
        else:
            yield str(key), value


class SweepSection(Section):
    """Which runs mode=sweep makes, and how.

    Attributes:
        space: dotted key -> its values, in Hydra's words; {} is a grid of learning rates.
        low, high: ends of that grid; None is what is typical for the optimizer, and a decade more.
        points: its number of values; None is two a decade.
        seeds: runs a point, with seed, seed + 1 ...
        backend: what makes the runs; auto is lanes where these pay.
        lanes: most runs in one pass.
        jobs: worker processes at once; None is one a core.
    """

    space: Annotated[dict[str, Any], BeforeValidator(_flat)] = Field(default_factory=dict)
    low: Positive | None = None
    high: Positive | None = None
    points: Annotated[int, Strict(), Ge(2), BeforeValidator(integral)] | None = None
    seeds: Count = 1
    backend: Literal["auto", "lanes", "sequential", "processes"] = "auto"
    lanes: Count = 32
    jobs: Count | None = None


def _as_list(value: Any) -> Any:
    """Return one value as a list of it, and null as an empty one."""
    return list(value) if isinstance(value, list | tuple) else [value] if value is not None else []


FULL_RUNS = "runner.finding.procedure.full_runs"
"""target of sampler=lr"""
Direction = Literal["minimize", "maximize"]
Share = Annotated[float, Ge(0), Le(1), Finite]
Percent = Annotated[float, Ge(0), Le(100), Finite]
Texts = Annotated[list[str], BeforeValidator(_as_list)]


class Searching(Section):
    """How a search judges, keeps and gives up its trials, whoever runs them.

    Attributes:
        n_trials: trials wanted in the study, over all launches; failed ones and known points do not count.
        metric: what a trial is judged by, such as loss or val/accuracy; several for a Pareto front; [] is the val loss.
        direction: minimize or maximize, one a metric; [] is as the task says.
        study_name: None is the name of the sweep.
        storage: None is a journal file in the directory of the sweep; else a url, a path, or a section.
        custom_search_space: dotted path of a function (page, trial) -> None that asks the trial for more.
        max_failure_rate: share of failed trials at which the search gives up; those that diverged have not failed.
        known: earlier runs and sweeps, or mlflow.
        prune_after: percent of a run before which no trial is pruned.
    """

    n_trials: Count = 20
    metric: Texts = Field(default_factory=list)
    direction: Annotated[list[Direction], BeforeValidator(_as_list)] = Field(default_factory=list)
    study_name: str | None = None
    storage: Annotated[str | dict[str, Any] | None, PlainSerializer(masked, when_used="json")] = None
    custom_search_space: str | None = None
    max_failure_rate: Share = 0.5
    known: Texts = Field(default_factory=list)
    prune_after: Percent = 25


class SearchSection(Searching):
    """What mode=search looks for.

    Attributes:
        low, high: bounds of the learning rate; None begins at what is typical for the optimizer and may leave it.
        budget: updates of the default procedure, in full runs.
        verify: number of fresh seeds at the recommendation.
        safety: the recommendation is at most the largest stable learning rate over this; 1 goes as far as that.
        write: page to write that trains with it; None writes none.
        space: dotted key -> what it may be, in Hydra's words; {} is the learning rate.
    """

    low: Positive | None = None
    high: Positive | None = None
    budget: Annotated[float, Ge(4), Finite] = 6.0
    verify: Annotated[int, Strict(), Ge(0), BeforeValidator(integral)] = 5
    safety: Annotated[float, Ge(1), Finite] = 3.0
    write: Annotated[str, MinLen(1)] | None = None
    space: Annotated[dict[str, Any], BeforeValidator(_flat)] = Field(default_factory=dict)
