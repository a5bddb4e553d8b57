"""The exercise of experiments/diagnose_exercise: its verdicts are those that stand on the page."""

import math
from collections.abc import Sequence

import pytest

from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.verdict import IN_WORDS
from runner.readers.read import read_curve
from tests.conftest import ROOT

FOLDER = ROOT / "experiments/diagnose_exercise"
SIX = [2.5, 2.4, 2.6, 3.1, 4.2, math.nan]
CURVES = sorted(path.stem for path in FOLDER.glob("*.csv"))


@pytest.mark.parametrize(("name", "source"), [("values", SIX), *((n, str(FOLDER / f"{n}.csv")) for n in CURVES)])
def test_verdict_of_the_exercise_is_that_of_its_page(name: str, source: str | Sequence[float]) -> None:
    found = diagnose(read_curve(source, {}).curve)
    assert f"{name}: {IN_WORDS[found.cause]}" in (FOLDER / "README.md").read_text()


def test_page_names_five_runs_and_their_commands() -> None:
    page = (FOLDER / "README.md").read_text().splitlines()
    assert len(CURVES) == 5
    for name in CURVES:
        assert f"python -m runner mode=diagnose source=experiments/diagnose_exercise/{name}.csv" in page


def test_first_thing_to_try_for_the_six_numbers_is_a_tenth_of_the_learning_rate() -> None:
    first = diagnose(read_curve(SIX, {}).curve).suggestions[0]
    assert first.why.startswith("LR / 10: try a learning rate ten times lower")
