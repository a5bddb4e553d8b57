"""mode=search: one line that ends in a learning rate, its evidence and its doubt."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Done, Program, Refusal
from tests.sweeps import records, statuses, sweep_of

SEARCH = ("mode=search", "task=quadratic", "train.duration=40", "sweep.backend=sequential")
ASK = """
def ask(page, trial):
    assert page.optimizer.lr and page.search.n_trials == 2
    assert 1e-3 <= trial.params["optimizer.lr"] <= 1e-2
    assert trial.user_attrs["task"] == "quadratic"
    trial.suggest_float("optimizer.momentum", 0.1, 0.2)
"""
STUDY = (*SEARCH, "sampler=random", "search.n_trials=4")


def report(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.run / "lr_report.json").read_text())
    return found


def purposes(done: Done) -> list[str]:
    return [job["varied"]["tags.purpose"] for job in sweep_of(done)["jobs"]]


def test_one_line_finds_the_learning_rate_verifies_it_and_says_what_it_cost(program: Program) -> None:
    done = program(*SEARCH, "search.write=found/best.yaml")
    assert done.code == 0, done.err
    found = report(done)
    assert purposes(done)[:2] == ["start", "start"]
    assert purposes(done)[-5:] == ["verify"] * 5
    assert found["cost"]["full_runs"] <= 6
    assert found["cost"]["verify_full_runs"] == 5
    [group] = found["groups"]
    assert 0.02 < group["recommended"] < 0.2  # unstable above 0.38
    assert group["verified"]["failed"] == 0
    assert f"recommended: optimizer.lr={group['recommended']:g}" in done.out
    assert done.out.strip().splitlines()[-1].startswith("runs/sweeps/")
    page = yaml.safe_load((done.directory / "found/best.yaml").read_text())
    assert page["optimizer"]["lr"] == group["recommended"]
    again = program("--config-dir", "found", "--config-name", "best")
    assert again.code == 0, again.err
    line = next(line for line in done.out.splitlines() if line.startswith("use it with: "))
    used = program(*shlex.split(line.partition("runner ")[2]))
    assert used.code == 0, used.err
    assert "purpose" not in line


def test_search_that_goes_on_makes_no_run_twice(program: Program) -> None:
    done = program(*SEARCH)
    before = records(done)
    again = program(f"resume.sweep={done.run.relative_to(done.directory)}")
    assert again.code == 0, again.err
    assert records(again) == before
    assert report(again)["groups"] == report(done)["groups"]


def test_bounds_hold(program: Program) -> None:
    done = program(*SEARCH, "search.low=0.01", "search.high=0.02", "search.verify=0")
    rates = [job["lr"] for job in sweep_of(done)["jobs"]]
    assert (min(rates), max(rates)) == (0.01, 0.02)
    assert "verify" not in purposes(done)


def test_all_diverged_is_told_with_lower_rates_to_try(program: Program) -> None:
    done = program(*SEARCH, "search.low=100", "search.high=1000", "detector=[default]", "train.duration=400")
    assert done.code == 3
    assert set(statuses(done)) == {"diverged"}
    assert "lower" in done.out.lower()


def test_sampler_asks_a_study_that_goes_on_where_it_stopped(program: Program) -> None:
    space = "search.space={optimizer.lr:'interval(0.001,0.1)',optimizer.momentum:'choice(0,0.5)'}"
    done = program(*STUDY, space)
    assert done.code == 0, done.err
    assert statuses(done) == ["finished"] * 4
    assert {job["varied"].keys() == {"optimizer.lr", "optimizer.momentum"} for job in sweep_of(done)["jobs"]} == {True}
    assert "4 finished" in done.out
    again = program(f"resume.sweep={done.run.relative_to(done.directory)}")
    assert again.code == 0, again.err
    assert len(sweep_of(again)["jobs"]) == 4


def test_function_of_the_user_gets_the_page_and_asks_for_more(program: Program, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ASK)
    words = ["search.n_trials=2", "search.custom_search_space=mine.ask", "search.low=1e-3", "search.high=1e-2"]
    done = program(*SEARCH, "sampler=random", *words)
    assert done.code == 0, done.err
    assert all(0.1 <= float(job["varied"]["optimizer.momentum"]) <= 0.2 for job in sweep_of(done)["jobs"])


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["search.low=1", "search.high=0.1"], ["search.low: must be below search.high=0.1, got 1."]),
        (["search.budget=3"], ["search.budget: must be a finite number >= 4, got 3."]),
        (["search.low=nan"], ["search.low: must be a finite number > 0 or null, got nan."]),
        (["search.verify=-1"], ["search.verify: must be"]),
        (
            ["search.space={optimizer.lr:'interval(1,2)'}", "search.metric=accuracy", "pruner=median"],
            [
                "search.space: must be left out with sampler=lr",
                "search.metric: must be left out with sampler=lr, got accuracy. Set sampler=tpe.",
                "pruner: must be left out with sampler=lr",
            ],
        ),
        (
            ["sampler=tpe", "search.space={optimizer.lr:'interval(1,2)'}", "search.low=1"],
            ["search.low: must be null with search.space, got 1."],
        ),
        (
            ["sampler=tpe", "search.custom_search_space=math.sqrt", "search.known=[x]"],
            ["search.known: must be left out where a function makes the space, got x."],
        ),
        (["sampler=tpe", "search.metric=f1"], ["search.metric: must be a metric that the runs report, got f1."]),
        (["sampler=tpe", "search.space={optimizer.lr:'interval(1,0.1)'}"], ["optimizer.lr: must"]),
        (["sampler=tpe", "search.space={optimizer.lr:'interval(-1,1)'}"], ["optimizer.lr: must"]),
        (["sampler=tpf"], ["sampler: must be one of"]),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    refuse: Callable[..., Refusal], overrides: list[str], problems: list[str]
) -> None:
    refusal = refuse(*SEARCH, *overrides)
    assert refusal.code == 2
    for problem in problems:
        assert problem in refusal.err
