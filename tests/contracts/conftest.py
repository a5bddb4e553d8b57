"""Contracts run over the YAML files: a new part is tested without touching a test."""

from collections.abc import Callable, Iterator

import pytest
from hydra import compose, initialize_config_dir

from runner.build import Experiment, build
from runner.compose import to_tree
from runner.job import checked
from tests.conftest import ROOT

Make = Callable[..., Experiment]


def options(group: str) -> list[str]:
    """Names of the YAML files of a group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.fixture
def make() -> Iterator[Make]:
    """Overrides -> the objects of a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda *overrides: build(checked(to_tree(compose("config", list(overrides)))))
