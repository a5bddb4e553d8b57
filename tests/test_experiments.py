"""The numbers that stand in experiments/ come out of the commands that stand beside them.

`expected.json` is a list, an item a command:
    command   as it stands on the page
    needs     modules without which it is skipped; left out when it needs none beyond the project's own
    slow      true when it takes more than a few seconds; left out otherwise
    result    dotted key of result.json -> {"value", "tolerance"}, or the very value
    weights   parameter of the last checkpoint -> {"value", "tolerance"}; left out when the page names none
"""

import importlib
import json
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.__main__ import EXIT_CODES
from tests.conftest import ROOT, Program

COMMANDS = [
    pytest.param(
        path.parent,
        item,
        id=f"{path.parent.name}-{number}",
        marks=[pytest.mark.slow] if item.get("slow") else [],
    )
    for path in sorted(ROOT.glob("experiments/*/expected.json"))
    for number, item in enumerate(json.loads(path.read_text()))
]


@pytest.mark.parametrize(("folder", "expected"), COMMANDS)
def test_experiment_gives_the_numbers_of_its_page(
    folder: Path, expected: dict[str, Any], program: Program, tmp_path: Path
) -> None:
    for name in expected.get("needs", []):
        try:
            importlib.import_module(name)
        except Exception as error:  # torchvision of another build than torch fails with a RuntimeError
            pytest.skip(f"{name} cannot be imported: {error}")
    assert expected["command"] in (folder / "README.md").read_text().splitlines()
    _, separator, line = expected["command"].rpartition(" && ")
    if separator:  # launched where its files lie, of which a copy is enough
        for file in [*folder.glob("*.py"), *folder.glob("*.yaml")]:
            shutil.copy(file, tmp_path)
    # the folder of the experiment is given absolutely, so that the run lands in a directory of the test
    words = line.replace("experiments/", f"{ROOT}/experiments/").split()[3:]
    done = program(*words)
    assert done.code == EXIT_CODES[expected["result"].get("status", "finished")], done.err
    result = json.loads((done.run / "result.json").read_text())
    for key, wanted in expected["result"].items():
        found = reduce(lambda tree, name: tree[name], key.split(".", 1), result)
        assert found == as_wanted(wanted), key
    if "weights" in expected:
        model = torch.load(done.run / "checkpoints/last.pt", weights_only=True)["model"]
        for name, wanted in expected["weights"].items():
            assert model[name].tolist() == as_wanted(wanted), name


def as_wanted(wanted: Any) -> Any:
    """Return what compares equal to every number within the tolerance."""
    return pytest.approx(wanted["value"], abs=wanted["tolerance"]) if isinstance(wanted, dict) else wanted
