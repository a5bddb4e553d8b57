"""The benchmark of search methods: its tables come from the numbers beside them, its rules do what they say."""

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "experiments/finding_the_lr"
CELL = "cancer_adamw_constant"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Any]:
    """The modules of the experiment, which are scripts beside each other, where no run is kept."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    return lambda name: importlib.import_module(name)


def truth_of(parts: Any, *, best: float, failed_from: float) -> Any:
    """A parabola of slope 0.5 a decade squared in ln loss, six rates a decade over four decades around 1e-2."""
    lrs = [10 ** (i / 6 - 4) for i in range(25)]
    means = [math.exp(0.5 * math.log10(lr / best) ** 2) if lr < failed_from else math.nan for lr in lrs]
    failed = [0.0 if lr < failed_from else 0.4 for lr in lrs]
    return parts("curve").Truth(tuple(lrs), tuple(means), (0.01,) * 25, tuple(failed))


@pytest.mark.usefixtures("pictures")
def test_tables_and_figure_come_from_the_numbers_beside_them(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["table.py", "--to", str(tmp_path)])
    parts("table").main()
    for name in ("tables.md", "truth.json", "picks.json"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name
    assert (tmp_path / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_regret_is_that_of_the_curve_and_a_pick_at_the_edge_fails(parts: Any) -> None:
    truth = truth_of(parts, best=3e-3, failed_from=0.09)
    assert truth.best()[0] == pytest.approx(3e-3, rel=0.01)
    assert truth.regret(3e-3) == pytest.approx(0.0, abs=1e-5)
    assert truth.regret(3e-2) == pytest.approx(math.exp(0.5) - 1, rel=1e-3)
    assert truth.regret(1e-9) == truth.regret(1e-4) > 1.9  # no less than at the end
    assert truth.first_failing == pytest.approx(0.1)
    assert truth.allowed == pytest.approx(10 ** (-7 / 6) / 3)
    for lr in (0.1, 5.0, math.nan):
        assert math.isinf(truth.regret(lr))


def test_search_may_pick_no_better_than_a_third_of_the_edge_allows(parts: Any) -> None:
    near = truth_of(parts, best=0.05, failed_from=0.09)
    rows = parts("table").rows_of({CELL: near}, [])
    assert rows[0].picks[0].lr == pytest.approx(near.stable / 3, rel=0.01)
    assert rows[0].regrets[0] == pytest.approx(math.exp(0.5 * math.log10(0.05 / near.allowed) ** 2) - 1, rel=0.02)


def test_ten_trials_of_a_study_of_twenty_are_those_of_a_study_of_ten(parts: Any) -> None:
    methods: ModuleType = parts("methods")

    class Parabola(methods.Lab):  # type: ignore[name-defined,misc]
        def run(self, lr: float, seed: int | None = None, **how: Any) -> Any:
            self.steps += self.full
            loss = 1 + math.log10(lr / 1e-3) ** 2
            return parts("runs_of_cells").CellRun(lr, self.seed, 1.0, loss, "finished", 9.0, self.full, self.full, [])

    def make(*looks: int) -> list[Any]:
        search = methods.sampled("tpe", lambda seed: optuna.samplers.TPESampler(seed=seed), looks=looks)
        return list(search(Parabola(CELL, 0)))

    ten, (first, twenty) = make(10), make(10, 20)
    assert ten == [first]
    assert (first.method, first.cost, twenty.method, twenty.cost) == ("tpe 10", 10.0, "tpe 20", 20.0)


def test_one_ramp_serves_all_rules_of_a_library_and_costs_what_it_made(parts: Any) -> None:
    ranges = parts("ranges")
    fastai, lightning = ranges.fastai(CELL, 7), ranges.lightning(CELL, 7)
    assert [*fastai.rates] == ["fastai valley", "fastai slide", "fastai minimum/10", "fastai steep"]
    assert [*lightning.rates] == ["lightning"]
    full = parts("runs_of_cells").full_steps(CELL)
    for found, low, high in ((fastai, 1e-8, 10.0), (lightning, 1e-8, 1.0)):
        assert all(low <= lr <= high for lr in found.rates.values())
        assert 0 < found.cost <= 100 / full
    assert ranges.fastai(CELL, 7) == fastai != ranges.fastai(CELL, 8)


def test_designs_are_replayed_on_kept_runs(parts: Any, tmp_path: Path) -> None:
    runs, designs = parts("runs_of_cells"), parts("search_designs")
    full, kept = runs.full_steps(CELL), parts("truth").path_of(CELL)
    made = [
        runs.CellRun(lr, seed, share, 1 + math.log10(lr / 2e-3) ** 2, "finished", 99.0, steps, steps, [])
        for lr in parts("truth").grid(CELL)
        for seed in designs.SEEDS
        for share, steps in ((1.0, full), (designs.SHORT, round(designs.SHORT * full)))
    ]
    kept.parent.mkdir(parents=True)
    kept.write_text("\n".join(json.dumps(run._asdict()) for run in made) + "\n")
    for name, design in designs.DESIGNS.items():
        lab = designs.Replay(CELL, 0)
        assert design(lab) == pytest.approx(2e-3, rel=0.4), name
        assert lab.cost == pytest.approx(sum(one.steps for own in lab.seen.values() for one in own) / full), name
    assert designs.DESIGNS["climb by half decades, then seeds; vertex"](lab := designs.Replay(CELL, 1)) > 0
    assert 5 <= lab.cost <= 6
