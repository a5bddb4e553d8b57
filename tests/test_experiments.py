"""The numbers that stand in experiments/ come out of the commands that stand beside them."""

import json
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT

EXPECTED = sorted(ROOT.glob("experiments/*/expected.json"))


@pytest.mark.parametrize("path", EXPECTED, ids=[path.parent.name for path in EXPECTED])
def test_experiment_gives_the_numbers_of_its_page(path: Path, tmp_path: Path) -> None:
    expected = json.loads(path.read_text())
    assert expected["command"] in (path.parent / "README.md").read_text()
    # the folder of the experiment is given absolutely, so that the run lands in a directory of the test
    words = expected["command"].replace("experiments/", f"{ROOT}/experiments/").split()[3:]
    command = [sys.executable, "-m", "runner", *words, "tracking=off"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / done.stdout.splitlines()[-1] / "result.json").read_text())
    for key, wanted in expected["result"].items():
        found = reduce(lambda tree, name: tree[name], key.split(".", 1), result)
        assert found == pytest.approx(wanted["value"], abs=wanted["tolerance"]), key
