"""A part that is made in Python without arguments is that of its page."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import CONF

PAGES = [*sorted(CONF.glob("remedy/*.yaml")), *sorted(CONF.glob("detector/*.yaml"))]
OWN = {("heal", "urgent")}  # it names a detector that the other ladders do not have


def plain(value: Any) -> Any:
    """Return a value as YAML 1.2 has it: a tuple as a list, `1e-8` as a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_defaults_of_the_code_are_those_of_the_page(path: Path) -> None:
    page = yaml.safe_load(path.read_text())
    module, _, name = page.get("_target_", "").rpartition(".")
    if not module:
        pytest.skip("a list of other pages")
    of_code = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    differing = {
        key: (plain(value), plain(of_code[key].default))
        for key, value in page.items()
        if key in of_code
        and of_code[key].default is not inspect.Parameter.empty
        and not str(value).endswith("%")  # steps of a run, which the code does not know
        and (path.stem, key) not in OWN
        and plain(value) != plain(of_code[key].default)
    }
    assert differing == {}
