"""The sections of a page that say which runs a sweep makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BeforeValidator, Field, Strict

from runner.config_types import Count, Positive, Section, integral


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
