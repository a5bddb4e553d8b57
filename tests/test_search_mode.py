"""mode=search: one line that ends in a learning rate, its evidence and its doubt."""

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.tracking.sweep_observed import find_known_runs
from tests.conftest import Done, Program, Refusal, call_program
from tests.sweeps import records, runs_of, statuses, sweep_of

SEARCH = ("mode=search", "task=quadratic", "train.duration=40", "sweep.backend=sequential")
ASK = """
def ask(page, trial):
    assert page.optimizer.lr and page.search.n_trials == 2
    assert 1e-3 <= trial.params["optimizer.lr"] <= 1e-2
    assert trial.user_attrs["task"] == "quadratic"
    trial.suggest_float("optimizer.momentum", 0.1, 0.2)
"""
DYING = """
import os, pathlib, signal
from runner.tasks.quadratic import Quadratic

class Dying(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        results = pathlib.Path("runs/quadratic").glob("*/result.json")
        has_ended = step == 17 and sum('"finished"' in path.read_text() for path in results) >= 2
        if has_ended and not os.path.exists("has_died"):
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)
"""
BROKEN = """
from runner.tasks.quadratic import Quadratic as Sound

class Broken(Sound):
    def model(self):
        raise RuntimeError("no model today")
"""
STUDY = (*SEARCH, "sampler=random", "search.n_trials=4")


def is_ended(run: Path) -> bool:
    status: str = json.loads((run / "result.json").read_text())["status"] if (run / "result.json").exists() else ""
    return status in ("finished", "diverged")


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


@pytest.mark.slow
@pytest.mark.parametrize("words", [["search.budget=4", "search.verify=1"], ["sampler=tpe", "search.n_trials=6"]])
@pytest.mark.parametrize("backend", ["sequential", "lanes"])
def test_killed_search_loses_what_was_running_and_repeats_nothing(
    program: Program, tmp_path: Path, words: list[str], backend: str
) -> None:
    (tmp_path / "parts.py").write_text(DYING)
    page = [f"sweep.backend={backend}", "task._target_=parts.Dying", "train.checkpoint_every=5"]
    killed = call_program(*SEARCH, *words, *page, directory=tmp_path)
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    ended = {run: (run / "result.json").stat().st_mtime_ns for run in runs_of(tmp_path) if is_ended(run)}
    assert len(ended) >= 2
    rest = program(f"resume.sweep={directory}")
    assert rest.code == 0, rest.err
    assert {run: (run / "result.json").stat().st_mtime_ns for run in ended} == ended
    jobs = sweep_of(rest)["jobs"]
    assert len(runs_of(tmp_path)) == len(jobs), "a run that was killed goes on where it was"
    assert len({str(job["varied"]) for job in jobs}) == len(jobs)
    whole = program(*SEARCH, *words, *page, directory=tmp_path)
    points = [[job["varied"] for job in sweep_of(done)["jobs"]] for done in (rest, whole)]
    assert points[0][:2] == points[1][:2]
    assert len(points[0]) == len(points[1])


def test_changed_page_is_refused_when_a_search_goes_on(program: Program, tmp_path: Path) -> None:
    (tmp_path / "my/optimizer").mkdir(parents=True)
    page = "defaults: [sgd]\nmomentum: {}\n"
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.5))
    short = ["search.low=0.01", "search.high=0.03", "search.verify=0", "search.budget=4"]
    done = program("--config-dir", "my", *SEARCH, "optimizer=mine", *short)
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.6))
    changed = program(f"resume.sweep={done.run}")
    assert changed.code == 2
    assert "resume.sweep: must be a sweep of the same page, got " in changed.err
    assert "optimizer.momentum is 0.5 there and 0.6 here. Start a new sweep, or take the change back." in changed.err


def test_bounds_hold(program: Program) -> None:
    done = program(*SEARCH, "search.low=0.01", "search.high=0.02", "search.verify=0")
    rates = [job["lr"] for job in sweep_of(done)["jobs"]]
    assert (min(rates), max(rates)) == (0.01, 0.02)
    assert "verify" not in purposes(done)


def test_all_diverged_is_told_with_lower_rates_to_try(program: Program) -> None:
    done = program(*SEARCH, "search.low=100", "search.high=1000", "detector=[default]", "train.duration=400")
    assert done.code == 3
    assert set(statuses(done)) == {"diverged"}
    assert "try lower ones: search.low=1 search.high=30" in done.out
    [line] = [text for text in done.out.splitlines() if text.startswith("try lower ones with: ")]
    assert line.endswith("search.low=1 search.high=30")


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


SPACE = 'search.space={optimizer.lr: "interval(1e-5,1)", optimizer: "choice(sgd,adamw)"}'
CHOSEN = "search.space: searched with sampler=tpe, as sampler=lr searches the learning rate alone, between"


def test_space_is_searched_with_tpe_where_no_sampler_is_named(program: Program) -> None:
    done = program(*SEARCH, SPACE, "search.n_trials=2")
    assert done.code == 0, done.err
    assert CHOSEN in done.err
    assert "sampler=tpe" in sweep_of(done)["overrides"]
    assert {"optimizer", "optimizer.lr"} == set(sweep_of(done)["jobs"][0]["varied"])
    more = program(f"resume.sweep={done.run}", "search.n_trials=3")
    assert more.code == 0, more.err
    assert more.err == ""
    assert len(statuses(more)) == 3


def test_sampler_that_is_chosen_is_that_of_the_page_that_is_shown(program: Program, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    space = {"optimizer.lr": "interval(1e-5,1)", "seed": "choice(1,2)"}
    page = {"defaults": ["config", {"override mode": "search"}, "_self_"], "search": {"space": space}}
    (tmp_path / "my/mine.yaml").write_text(yaml.safe_dump(page))
    words = ("--config-dir", "my", "--config-name", "mine", "--cfg", "job")
    shown = program(*words, "sampler.seed=7")
    sampler = yaml.safe_load(shown.out)["sampler"]
    assert (sampler["_target_"], sampler["seed"]) == ("optuna.samplers.TPESampler", 7)
    assert CHOSEN in shown.err
    named = program(*words, "sampler=random")
    assert yaml.safe_load(named.out)["sampler"]["_target_"] == "optuna.samplers.RandomSampler"
    assert named.err == ""


def test_study_gives_up_when_too_many_trials_fail(program: Program, tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(BROKEN)
    space = "search.space={optimizer.lr:'interval(0.01,0.1)',task._target_:'choice(parts.Broken,parts.Sound)'}"
    done = program(*STUDY, space, "search.n_trials=9", "search.max_failure_rate=0", "sampler.seed=2")
    assert done.code == 1
    assert statuses(done).count("failed") == 1
    assert len(statuses(done)) < 9
    assert "trials failed, more than search.max_failure_rate allows" in done.err
    assert "the search gave up" in done.err


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
        (
            ["search.low=0.1", "search.high=0.1001"],
            ["search.low: must be below search.high=0.1 by 1% at least, got 0.1."],
        ),
        (
            ["search.write=page.txt"],
            ["search.write: must be the path of a YAML page, got 'page.txt'. Set search.write=pa"],
        ),
        (["search.write=/dev/null/x.yaml"], ["search.write: must be where a file can be written, got '/dev/null/x.y"]),
        (["search.budget=3"], ["search.budget: must be a finite number >= 4, got 3."]),
        (["search.low=nan"], ["search.low: must be a finite number > 0 or null, got nan."]),
        (["search.verify=-1"], ["search.verify: must be"]),
        (
            ["sampler=lr", "search.space={optimizer.lr:'interval(1,2)'}", "search.metric=accuracy", "pruner=median"],
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


def test_report_of_a_study_that_others_have_begun_counts_their_trials(program: Program) -> None:
    shared = ("search.storage=sqlite:///study.db", "search.study_name=both")
    first = program(*STUDY, *shared, "search.n_trials=3")
    rest = program(*STUDY, *shared, "search.n_trials=4")
    assert rest.code == 0, rest.err
    [group] = report(rest)["groups"]
    assert {one["lr"] for one in group["rates"]} > {job["lr"] for job in sweep_of(first)["jobs"]}
    assert len(group["rates"]) == 4
    assert report(rest)["cost"]["runs"] == 1
    assert "3 earlier runs were known before: the curve counts them, the cost does not." in report(rest)["notes"]


def test_trials_of_others_keep_their_own_lengths(program: Program) -> None:
    space = "search.space={optimizer.lr:'interval(0.01,0.1)',train.batch_size:'choice(350,700)'}"
    shared = (space, "search.storage=sqlite:///study.db", "search.study_name=both", "task=digits", "train.duration=1ep")
    first = program(*STUDY, *shared)
    assert first.code == 0, first.err
    rest = program(*STUDY, *shared, "search.n_trials=5")
    assert rest.code == 0, rest.err
    known = find_known_runs(rest.run)
    assert known is not None
    assert [one.planned_steps for one in known] == [one.steps for one in known]
    assert len({one.steps for one in known}) == 2


def test_search_of_a_study_that_has_its_trials_reports_them(program: Program) -> None:
    shared = ("search.storage=sqlite:///study.db", "search.study_name=full", "search.n_trials=3")
    first = program(*STUDY, *shared)
    assert first.code == 0, first.err
    second = program(*STUDY, *shared, "search.write=found/best.yaml")
    assert second.code == 0, second.err
    assert "nothing was left to run for search.n_trials=3. Set it higher for more trials" in second.err
    assert (sweep_of(second)["jobs"], sweep_of(second)["status"]) == ([], "finished")
    [group], [own] = report(second)["groups"], report(first)["groups"]
    assert group["recommended"] == own["recommended"]
    assert [one["lr"] for one in group["rates"]] == [one["lr"] for one in own["rates"]]
    assert report(second)["cost"]["runs"] == 0
    assert (report(second)["loss"], report(second)["fixed"]) == (report(first)["loss"], report(first)["fixed"])
    use = [line for line in second.out.splitlines() if line.startswith("use it with: ")]
    assert use == [line for line in first.out.splitlines() if line.startswith("use it with: ")]
    assert yaml.safe_load((second.directory / "found/best.yaml").read_text())["optimizer"]["lr"] == own["recommended"]
    assert json.loads((second.run / "result.json").read_text())["verdict"] == "no job was made"
    again = program(f"resume.sweep={second.run}", "search.n_trials=4")
    assert again.code == 0, again.err
    assert len(sweep_of(again)["jobs"]) == 1


def test_search_in_which_the_page_refuses_every_trial_ends_in_words(program: Program, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('def ask(page, trial):\n    trial.suggest_float("optimizer.lrr", 0.1, 0.2)\n')
    words = ["search.custom_search_space=mine.ask", "search.low=1e-3", "search.high=1e-2", "search.n_trials=4"]
    done = program(*SEARCH, "sampler=random", *words)
    assert done.code == 1
    assert "is refused: optimizer.lrr: " in done.err
    assert "the search gave up" in done.err
    again = program(f"resume.sweep={done.run.relative_to(done.directory)}")
    assert again.code == 1
    assert "Traceback" not in done.err + again.err


def test_a_finished_search_is_given_more_trials(program: Program) -> None:
    done = program(*STUDY)
    more = program(f"resume.sweep={done.run.relative_to(done.directory)}", "search.n_trials=6")
    assert more.code == 0, more.err
    assert more.run == done.run
    assert len(sweep_of(more)["jobs"]) == 6


def test_journal_that_is_broken_or_locked_away_is_told_before_anything_runs(program: Program) -> None:
    done = program(*STUDY, "search.n_trials=1", "search.write=found.yaml")
    assert "no report of learning rates, as fewer than two were tried" in done.err
    assert "search.write: found.yaml is not written, as nothing is recommended" in done.err
    words = (f"resume.sweep={done.run}", "search.n_trials=2")
    (done.run / "study.journal").write_text("no journal\n")
    broken = program(*words)
    assert broken.code == 2
    assert "search.storage: must be a journal of Optuna, got " in broken.err
    assert "Restore it, or name another file." in broken.err
    (done.run / ".lock").unlink(missing_ok=True)
    (done.run / ".lock").mkdir()
    locked = program(*words)
    assert locked.code == 2
    assert "resume.sweep: must be a directory that can be written to, got " in locked.err
    assert len(runs_of(done.directory)) == 1


@pytest.mark.parametrize("path", ["found/best.txt", "parts.py/best.yaml", "."])
def test_page_that_cannot_be_written_is_refused_before_anything_runs(
    refuse: Callable[..., Refusal], tmp_path: Path, path: str
) -> None:
    (tmp_path / "parts.py").touch()
    refusal = refuse(*SEARCH, f"search.write={path}")
    assert refusal.code == 2
    assert "search.write: must be " in refusal.err
    assert not (tmp_path / "runs").exists()
