"""Contracts run over the YAML files: a new part is tested without touching a test."""

import functools
import importlib.util
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
import yaml

from runner.build import Experiment, build
from runner.config import Config
from runner.job import checked
from tests.conftest import ROOT
from tests.pages import composed

Make = Callable[..., Experiment]
Declare = Callable[..., Config]
NEEDS = {
    "schedule_of=one_cycle_momentum": ["schedule=one_cycle"],
    "schedule=refined": [f"++schedule.source={ROOT / 'tests' / 'recorded_run'}"],
    "schedule=lambda": ["++schedule.function._target_=tests.own_parts.halving"],
    "param_groups=muon": ["optimizer=muon"],
    "detector=[edge]": ["monitor.sharpness.every=100"],
    "detector=edge": ["monitor.sharpness.every=100"],
    "warmup=untuned": ["optimizer=adamw"],
    "warmup=untuned_exponential": ["optimizer=adamw"],
    "scaling=linear": ["scaling.reference_batch_size=32"],
    "scaling=sqrt": ["scaling.reference_batch_size=32"],
    "task=supervised": ["++task.model._target_=tests.own_parts.Net", "++task.train._target_=tests.own_parts.Points"],
    "param_groups=patterns": ["++param_groups.rules={vectors:{dims:[0,1],lr_multiplier:0.1},rest:{match:'*'}}"],
    "param_groups=mup": [
        "++param_groups.base._target_=runner.tasks.mlp.mlp",
        *(f"++param_groups.base.{value}" for value in ("inputs=64", "hidden=[16,16]", "outputs=10", "dropout=0.0")),
    ],
}
"""option -> what it cannot do without"""


def needs_of(overrides: Sequence[str]) -> list[str]:
    """Return overrides that the given ones cannot do without."""
    return [need for override in overrides for need in NEEDS.get(override, [])]


def options(group: str) -> list[str]:
    """Names of the YAML files of a group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def optimizers(*, without: Collection[str] = ()) -> list[Any]:
    """Options of `optimizer`; one whose package or device is missing is skipped."""
    return [pytest.param(name, marks=missing(name)) for name in options("optimizer") if name not in without]


@functools.cache
def missing(name: str) -> list[pytest.MarkDecorator]:
    page = yaml.safe_load((ROOT / f"conf/optimizer/{name}.yaml").read_text())
    package = page.get("_target_", "torch").partition(".")[0]
    is_missing = importlib.util.find_spec(package) is None
    no_device = "devices" in page and not torch.cuda.is_available()
    return [
        pytest.mark.skipif(is_missing, reason=f"{package} is not installed"),
        pytest.mark.skipif(no_device, reason="needs a CUDA device"),
    ]


@pytest.fixture
def declare() -> Declare:
    """Overrides -> the checked configuration of a run."""
    return lambda *overrides: checked(composed(*needs_of(overrides), *overrides))


@pytest.fixture
def make(declare: Declare) -> Make:
    """Overrides -> the objects of a run."""
    return lambda *overrides: build(declare(*overrides))
