"""Studies on disk: asked and told, gone on with, shared, and refused where they are about something else."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ConfigError, SweepError
from runner.search.parts import make_pruner, make_sampler
from runner.search.space import read_space
from runner.search.study import Study
from runner.search.trials import Asked, Ended, value_of_diverged
from runner.tracking.lock import alone_in
from tests.contracts.conftest import options
from tests.studies import SPACE, option, plan, sqlite

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),
]


def finished(value: float) -> Ended:
    return Ended("finished", (value,), steps=30, first_loss=2.3)


def trials(study: Study) -> list[Any]:
    return study._study.get_trials(deepcopy=False)


def points(asked: Sequence[Asked]) -> list[dict[str, str]]:
    return [dict(one.overrides) for one in asked]


@pytest.mark.parametrize("name", [name for name in options("sampler") if name not in ("grid", "lr")])
def test_sampler_of_a_page_asks_inside_the_space_and_learns(name: str, tmp_path: Path) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")
    study = Study(plan(sampler=name), tmp_path)
    for _ in range(8):
        [asked] = study.ask(1, total=8)
        lr = float(asked.overrides["optimizer.lr"])
        assert 1e-4 <= lr <= 1
        assert asked.overrides["optimizer"] in ("sgd", "adamw")
        study.tell(asked.number, finished(abs(math.log(lr / 0.01))))
    assert study.ask(1, total=8) == []
    assert study.counts().finished == 8


@pytest.mark.skipif(find_spec("cmaes") is not None, reason="cmaes is installed")
def test_sampler_whose_package_is_missing_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"sampler: must have its package.*pip install 'stepsize-runner.cmaes.'"):
        make_sampler(option("sampler", "cmaes"), read_space(SPACE), key="sampler")


@pytest.mark.parametrize("name", options("pruner"))
def test_pruner_of_a_page_is_made(name: str) -> None:
    make_pruner(option("pruner", name), key="pruner")


@pytest.mark.parametrize("storage", [None, "sqlite", "journal"])
def test_study_goes_on_where_it_stopped(storage: str | None, tmp_path: Path) -> None:
    where = {None: None, "sqlite": sqlite(tmp_path), "journal": str(tmp_path / "shared/some.journal")}[storage]
    first = Study(plan(storage=where), tmp_path)
    told = first.ask(3, total=5)
    for asked in told:
        first.assign(asked.number, asked.number + 1)
        first.tell(asked.number, finished(1.0))
    again = Study(plan(storage=where), tmp_path)
    rest = again.ask(9, total=5)
    assert len(rest) == 2, "only what is missing"
    assert not {one.overrides["optimizer.lr"] for one in rest} & {one.overrides["optimizer.lr"] for one in told}
    assert again.ask(1, total=5) == []


def test_study_that_nobody_shares_goes_on_in_another_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    first = Study(plan(), here)
    done, left = first.ask(2, total=3)
    first.tell(done.number, finished(1.0))
    first._study._storage.set_trial_user_attr(left.number, "place", "another-machine:/gone/sweep")
    here.rename(there)
    again = Study(plan(), there)
    assert [trial.number for trial in again.in_flight()[0]] == [left.number]
    assert again.elsewhere() == []
    assert len(again.ask(9, total=3)) == 1


@pytest.mark.parametrize("name", ["random", "qmc", "tpe"])
def test_points_after_a_restart_are_new(name: str, tmp_path: Path) -> None:
    one_key = "optimizer.lr=interval(1e-4,1)"
    seen = []
    for total in range(2, 8, 2):
        study = Study(plan(one_key, sampler=name), tmp_path)
        for one in study.ask(2, total=total):
            seen.append(one.overrides["optimizer.lr"])
            study.tell(one.number, finished(1.0))
    assert len(set(seen)) == 6


def test_grid_has_every_point_once_and_then_no_more(tmp_path: Path) -> None:
    space = ("optimizer=sgd,adamw", "seed=range(0,3)")
    study = Study(plan(*space, sampler="grid"), tmp_path)
    seen = []
    for _ in range(3):
        batch = study.ask(4, total=100)
        for one in batch:
            study.tell(one.number, finished(1.0))
        seen += points(batch)
    assert len(seen) == len({tuple(point.items()) for point in seen}) == 6


def test_diverged_trial_is_a_finite_bad_value_that_breaks_a_constraint(tmp_path: Path) -> None:
    study = Study(plan(), tmp_path)
    for ended in (
        Ended("diverged", steps=7, first_loss=2.3, verdict="diverged: loss is nan"),
        finished(0.5),
        Ended("finished", (math.nan,), first_loss=0.1),
        finished(9.0),
        Ended("diverged", first_loss=2.3),
    ):
        [asked] = study.ask(1, total=9)
        study.tell(asked.number, ended)
    found = trials(study)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 5
    assert [trial.value for trial in found] == [2.3, 0.5, 0.5, 9.0, 9.0]
    assert [trial.constraints["diverged"] for trial in found] == [1, -1, 1, -1, 1]
    assert (found[0].user_attrs["steps"], found[0].user_attrs["verdict"]) == (7, "diverged: loss is nan")
    assert [trial.number for trial in study.best()] == [1], "trial 2 has as good a value, and diverged"
    assert str(study.counts()) == "2 finished, 3 diverged"


@pytest.mark.parametrize(
    ("metric", "direction", "others", "first_loss", "value"),
    [
        ("val/loss", "minimize", [0.1, 0.4], 2.3, 2.3),
        ("val/loss", "minimize", [0.1, 0.4], 0.2, 0.4),
        ("val/loss", "minimize", [], math.nan, 1e3),
        ("val/accuracy", "maximize", [0.9, 0.3], 2.3, 0.3),
        ("val/accuracy", "maximize", [], 2.3, -1e3),
    ],
)
def test_value_of_a_diverged_trial_is_never_better_than_another(
    metric: str, direction: str, others: list[float], first_loss: float, value: float
) -> None:
    assert value_of_diverged(metric, direction, others=others, first_loss=first_loss) == value


def test_sampler_keeps_away_from_where_trials_diverged(tmp_path: Path) -> None:
    study = Study(plan("optimizer.lr=interval(1e-4,1)", sampler="tpe"), tmp_path)
    rates = []
    for _ in range(30):
        [asked] = study.ask(1, total=30)
        lr = float(asked.overrides["optimizer.lr"])
        rates.append(lr)
        diverges = lr > 0.03
        study.tell(asked.number, Ended("diverged", first_loss=2.3) if diverges else finished(-math.log(lr)))
    late = [lr > 0.03 for lr in rates[15:]]
    assert sum(late) <= 7, "half of the space in the logarithm is 3/8 bad, and its edge is the best place"


def test_pruned_trial_keeps_its_values_on_the_way_and_counts(tmp_path: Path) -> None:
    study = Study(plan(sampler="tpe"), tmp_path)
    first, *others = study.ask(7, total=9)
    study._trial(first.number).report(1.5, 25)
    study.tell(first.number, Ended("pruned", steps=15))
    for one in others:
        study.tell(one.number, Ended("pruned"))
    assert [trial.state.name for trial in trials(study)] == ["PRUNED"] * 7
    assert trials(study)[0].intermediate_values == {25: 1.5}
    assert trials(study)[0].value == 1.5
    assert (study.ended, study.failed) == (7, 0)
    assert len(study.ask(5, total=9)) == 2, "the sampler bears with those without a value"


def test_telling_twice_changes_nothing(tmp_path: Path) -> None:
    study = Study(plan(), tmp_path)
    [asked] = study.ask(1, total=4)
    study.tell(asked.number, finished(1.0))
    study.tell(asked.number, Ended("failed"))
    assert [trial.value for trial in trials(study)] == [1.0]


def test_failed_trial_counts_for_this_launch_only_and_can_be_made_again(tmp_path: Path) -> None:
    study = Study(plan(), tmp_path)
    [asked] = study.ask(1, total=2)
    study.assign(asked.number, 1)
    study.tell(asked.number, Ended("failed", verdict="no data"))
    assert len(study.ask(5, total=2)) == 1
    later = Study(plan(), tmp_path)
    assert list(later.in_flight()) == [0], "what was asked and never became a job"
    later.again(1)
    [again] = later.in_flight()[1]
    assert again.params == asked.params
    later.tell(again.number, finished(1.0))
    assert later.counts().finished == 1


def test_what_a_dead_search_left_running_is_failed_and_comes_again(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    shared = plan(storage=sqlite(tmp_path))
    with alone_in(there, key="", what=""):
        [left] = Study(shared, there).ask(1, total=9)
        assert Study(shared, here).counts().running == 1, "it is alive"
    study = Study(shared, here)
    assert trials(study)[left.number].state.name == "FAIL"
    assert study.ask(1, total=9)[0].params == left.params


def test_two_searches_on_one_study_make_as_many_trials_as_one(tmp_path: Path) -> None:
    searches = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        searches.append(tmp_path / name)
    shared = plan(storage=sqlite(tmp_path))
    with alone_in(searches[0], key="", what=""), alone_in(searches[1], key="", what=""):
        one, two = (Study(shared, directory) for directory in searches)
        asked = []
        for _ in range(3):
            asked += [(study, trial) for study in (one, two) for trial in study.ask(2, total=5)]
        for study, trial in asked:
            study.tell(trial.number, finished(1.0))
    assert len({trial.number for _, trial in asked}) == len(asked) == 5


def test_two_searches_that_begin_together_draw_different_points(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    studies = [Study(plan(storage=sqlite(tmp_path)), place) for place in places]
    drawn = [points(study.ask(3, total=6)) for study in studies]
    assert not {str(one) for one in drawn[0]} & {str(one) for one in drawn[1]}


def test_known_points_are_trials_that_do_not_count(tmp_path: Path) -> None:
    study = Study(plan(sampler="tpe"), tmp_path)
    for _ in range(2):  # twice the same
        study.add_known("runs/a", {"optimizer.lr": 0.01, "optimizer": "sgd"}, finished(0.2))
        study.add_known("runs/b", {"optimizer.lr": 0.9, "optimizer": "sgd"}, Ended("diverged", first_loss=2.3))
    assert [trial.value for trial in trials(study)] == [0.2, 2.3]
    assert study.counts() == study.counts()._replace(known=2, finished=0)
    assert len(study.ask(9, total=3)) == 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            plan("optimizer.lr=interval(1e-3,1)", "optimizer=sgd,adamw"),
            "the range of optimizer.lr is interval(0.0001,1) there and interval(0.001,1) here",
        ),
        (
            plan("optimizer.lr=interval(1e-4,1)"),
            "the range of optimizer is sgd,adamw there and absent here",
        ),
        (plan(page={"train.duration": "60"}), "train.duration is 30 there and 60 here"),
        (
            plan(metrics=["val/accuracy"], directions=["maximize"]),
            "the direction of val/accuracy is absent there and maximize here; "
            "the direction of val/loss is minimize there and absent here",
        ),
    ],
)
def test_study_of_something_else_is_refused_with_the_difference(changed: Any, said: str, tmp_path: Path) -> None:
    Study(plan(), tmp_path)
    with pytest.raises(ConfigError) as error:
        Study(changed, tmp_path)
    assert str(error.value).splitlines()[1] == (
        f"  search.study_name: must be a study of the same task and space, got 'study': {said}. "
        "Choose another name, or take the change back."
    )


def test_study_of_another_program_is_refused(tmp_path: Path) -> None:
    import optuna

    optuna.create_study(storage=sqlite(tmp_path), study_name="study").ask()
    with pytest.raises(ConfigError, match=r"search\.study_name: must be a study of this program, got 'study', whose"):
        Study(plan(storage=sqlite(tmp_path)), tmp_path)


@pytest.mark.parametrize("is_shared", [False, True])
def test_journal_with_a_torn_last_line_is_mended(is_shared: bool, tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal") if is_shared else None
    study = Study(plan(storage=storage), tmp_path)
    [asked] = study.ask(1, total=9)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":5,"worker')
    again = Study(plan(storage=storage), tmp_path)
    again.tell(asked.number, finished(1.0))
    assert Study(plan(storage=storage), tmp_path).counts().finished == 1


def test_line_of_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Study(plan(), tmp_path).ask(1, total=9)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":5,"worker{"op_code":5}\n')
    count = (tmp_path / "study.journal").read_bytes().count(b"\n")
    with pytest.raises(ConfigError, match=rf"study\.journal, whose line {count} cannot be read\. Delete that line"):
        Study(plan(), tmp_path)


def test_range_that_is_written_in_another_way_is_the_same(tmp_path: Path) -> None:
    Study(plan("optimizer.lr=interval(1e-4,1)"), tmp_path)
    Study(plan("optimizer.lr=interval(0.0001, 1.0)"), tmp_path)
    with pytest.raises(ConfigError, match=r"the range of optimizer\.lr is"):
        Study(plan("optimizer.lr=tag(linear,interval(1e-4,1))"), tmp_path)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:////proc/none/x.db", "search.storage: must be a storage that answers, got sqlite:////proc/none/x.db"),
        ("postgresql://me:secret@127.0.0.1:9/x", r"got postgresql://me:\*\*\*@127.0.0.1:9/x \([Cc]onnection refused\)"),
        ("nonsense://x", "search.storage: must be a storage that answers, got nonsense://x"),
        ({"_target_": "optuna.storages.Nothing"}, "search.storage._target_: "),
    ],
)
def test_storage_that_cannot_be_opened_is_named(storage: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Study(plan(storage=storage), tmp_path)
    assert "secret" not in str(error.value)


def test_journal_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("some text")
    with pytest.raises(
        ConfigError,
        match=r"search\.storage: must be a journal of Optuna, got .*some\.txt\. Restore it, or name another",
    ):
        Study(plan(storage=str(tmp_path / "some.txt")), tmp_path)
    assert (tmp_path / "some.txt").read_text() == "some text"


def test_storage_that_is_lost_in_the_middle_is_told_in_words(tmp_path: Path) -> None:
    study = Study(plan(storage=sqlite(tmp_path)), tmp_path)
    [asked] = study.ask(1, total=9)
    (tmp_path / "studies.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(SweepError, match=r"search\.storage: must be a storage that answers, got sqlite") as error:
        study.tell(asked.number, finished(1.0))
    assert error.value.exit_code == 1
    assert "The runs are kept, go on with: python -m runner resume.sweep=" in str(error.value)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"_target_": "optuna.samplers.TPESampler", "sed": 1}, "sampler.sed: unknown key, did you mean sampler.seed"),
        ({"_target_": "optuna.samplers.Nothing"}, "sampler._target_: "),
        ({"_target_": "optuna.pruners.NopPruner"}, "sampler._target_: must be an optuna.sampler, got optuna.pruners"),
        ({"_target_": "optuna.samplers.GridSampler"}, "optimizer.lr: must be a list or a range for sampler=grid"),
        ({}, "sampler._target_: must be there, got nothing"),
    ],
)
def test_mistake_in_a_sampler_is_named(sampler: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sampler(sampler, read_space(["optimizer.lr=interval(1e-4,1)"]), key="sampler")


@pytest.mark.parametrize(
    ("failed", "ended", "most", "gives_up"),
    [
        (1, 1, 0.0, True),
        (1, 1, 0.5, False),
        (2, 2, 0.5, False),
        (3, 3, 0.5, True),
        (6, 10, 0.5, True),
        (9, 9, 1.0, False),
    ],
)
def test_search_gives_up_when_more_than_a_share_failed(
    tmp_path: Path, failed: int, ended: int, most: float, gives_up: bool
) -> None:
    study = Study(plan(), tmp_path)
    for number, asked in enumerate(study.ask(ended, total=99)):
        study.tell(asked.number, Ended("failed") if number < failed else finished(1.0))
    assert study.has_too_many_failed(most=most) is gives_up
    assert study.told_to_fail().startswith(f"warning search: {failed} of {ended} trials failed, more than search.max_")


def test_several_metrics_have_a_front_of_best_trials(tmp_path: Path) -> None:
    both = plan(metrics=["val/loss", "val/accuracy"], directions=["minimize", "maximize"])
    study = Study(both, tmp_path)
    for values in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.8)):
        [asked] = study.ask(1, total=9)
        study.tell(asked.number, Ended("finished", values))
    [asked] = study.ask(1, total=9)
    study.tell(asked.number, Ended("diverged", first_loss=2.3))
    assert [trial.number for trial in study.best()] == [0, 1]
    assert trials(study)[3].values == [2.3, 0.5]
