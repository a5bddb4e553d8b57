"""Studies of two keys, for tests that run no training."""

from pathlib import Path
from typing import Any

import yaml

from runner.search.fingerprint import fingerprint
from runner.search.opening import Plan
from runner.search.space import read_space
from tests.conftest import ROOT

SPACE = ("optimizer.lr=interval(1e-4,1)", "optimizer=sgd,adamw")


def option(group: str, name: str) -> dict[str, Any]:
    """What conf/<group>/<name>.yaml says."""
    page: dict[str, Any] = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text())
    return page


def plan(*space: str, sampler: str = "random", page: dict[str, str] | None = None, **changes: Any) -> Plan:
    """A plan; by default of a random search beside a sweep."""
    space = space or SPACE
    dimensions = read_space(space)
    texts = {key: dimension.meaning for key, dimension in dimensions.items()}
    metrics, ways = changes.pop("metrics", ["val/loss"]), changes.pop("directions", ["minimize"])
    about = fingerprint(texts, page or {"train.duration": "30"}, metrics, ways)
    given = {"extend": None, "storage": None, "name": "study", "section": "search", **changes}
    sampler_page = option("sampler", sampler)
    return Plan(space=dimensions, fingerprint=about, metrics=metrics, directions=ways, sampler=sampler_page, **given)


def sqlite(directory: Path) -> str:
    return f"sqlite:///{directory}/studies.db"
