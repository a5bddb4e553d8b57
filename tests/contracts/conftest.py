"""Contracts run over the YAML files: a new part is tested without touching a test."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from hydra import compose, initialize_config_dir

from runner.build import Experiment, build
from runner.compose import to_tree
from runner.config import Config
from runner.job import checked
from tests.conftest import ROOT

Make = Callable[..., Experiment]
Declare = Callable[..., Config]
NEEDS = {
    "schedule_of=one_cycle_momentum": ["schedule=one_cycle"],
    "schedule=refined": [f"++schedule.source={ROOT / 'tests' / 'recorded_run'}"],
    "schedule=lambda": ["++schedule.function._target_=tests.own_parts.halving"],
    "warmup=untuned": ["optimizer=adamw"],
    "warmup=untuned_exponential": ["optimizer=adamw"],
    "task=supervised": ["++task.model._target_=tests.own_parts.Net", "++task.train._target_=tests.own_parts.Points"],
}
"""option -> what it cannot do without"""


def needs_of(overrides: Sequence[str]) -> list[str]:
    """Return overrides that the given ones cannot do without."""
    return [need for override in overrides for need in NEEDS.get(override, [])]


def options(group: str) -> list[str]:
    """Names of the YAML files of a group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Overrides -> the checked configuration of a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda *overrides: checked(to_tree(compose("config", [*overrides, *needs_of(overrides)])))


@pytest.fixture
def make(declare: Declare) -> Make:
    """Overrides -> the objects of a run."""
    return lambda *overrides: build(declare(*overrides))
