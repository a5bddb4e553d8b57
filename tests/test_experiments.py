"""The numbers that stand in experiments/ come out of the commands that stand beside them."""

import importlib
import json
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT

EXPECTED = sorted(ROOT.glob("experiments/*/expected*.json"))
PAGES = [
    pytest.param(
        path,
        id=f"{path.parent.name}/{path.stem}",
        marks=[pytest.mark.slow] if json.loads(path.read_text()).get("slow") else [],
    )
    for path in EXPECTED
]


@pytest.mark.parametrize("path", PAGES)
def test_experiment_gives_the_numbers_of_its_page(path: Path, tmp_path: Path) -> None:
    expected = json.loads(path.read_text())
    for name in expected.get("needs", []):
        try:
            importlib.import_module(name)
        except Exception as error:  # torchvision of another build than torch fails with a RuntimeError
            pytest.skip(f"{name} cannot be imported: {error}")
    assert expected["command"] in (path.parent / "README.md").read_text()
    _, separator, line = expected["command"].rpartition(" && ")
    if separator:  # launched where its files lie, of which a copy is enough
        for file in [*path.parent.glob("*.py"), *path.parent.glob("*.yaml")]:
            shutil.copy(file, tmp_path)
    # the folder of the experiment is given absolutely, so that the run lands in a directory of the test
    words = line.replace("experiments/", f"{ROOT}/experiments/").split()[3:]
    command = [sys.executable, "-m", "runner", *words, "tracking=off"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / done.stdout.splitlines()[-1] / "result.json").read_text())
    for key, wanted in expected["result"].items():
        found = reduce(lambda tree, name: tree[name], key.split(".", 1), result)
        assert found == pytest.approx(wanted["value"], abs=wanted["tolerance"]), key
