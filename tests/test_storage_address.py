"""Where a study is kept: the same place from anywhere, and a password that nobody else reads."""

from pathlib import Path

import pytest

from runner.config_search import SearchSection
from runner.search.judge import write_judge
from runner.search.secret import with_password, without_password
from runner.search.storage import absolute_storage
from runner.tracking.address import masked
from tests.conftest import Program
from tests.test_tracking import postgresql  # noqa: F401  a fixture

ADDRESS = "postgresql://me:sesame@db:5432/studies"
QUADRATIC = ("task=quadratic", "train.duration=10", "sweep.backend=sequential")


def test_storage_is_the_same_place_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_storage("sqlite:///study.db") == f"sqlite:///{tmp_path}/study.db"
    assert absolute_storage("sub/study.journal") == f"{tmp_path}/sub/study.journal"
    assert absolute_storage("journal:study.journal") == f"{tmp_path}/study.journal"
    assert absolute_storage(ADDRESS) == ADDRESS
    assert absolute_storage(None) is None


@pytest.mark.parametrize("section", ["search", "hydra.sweeper"])
def test_password_is_hidden_where_it_is_recorded_and_found_again(section: str, tmp_path: Path) -> None:
    given = (f"{section}.storage={ADDRESS}", "optimizer.lr=0.1")
    recorded = without_password(given)
    assert recorded == (f"{section}.storage=postgresql://me:***@db:5432/studies", "optimizer.lr=0.1")
    write_judge(tmp_path, {"storage": ADDRESS})
    assert with_password(recorded, tmp_path) == given
    assert (tmp_path / "study.json").stat().st_mode & 0o077 == 0
    inside = (f"+{section}.storage.url={ADDRESS}",)
    write_judge(tmp_path, {"storage": {"_target_": "optuna.storages.RDBStorage", "url": ADDRESS}})
    assert with_password(without_password(inside), tmp_path) == inside


def test_page_that_is_saved_has_no_password() -> None:
    section = SearchSection(storage={"_target_": "optuna.storages.RDBStorage", "url": ADDRESS})
    assert "sesame" not in str(section.model_dump(mode="json"))
    assert section.storage == {"_target_": "optuna.storages.RDBStorage", "url": ADDRESS}
    assert masked([{"url": ADDRESS}, 3]) == [{"url": "postgresql://me:***@db:5432/studies"}, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "section"),
    [
        (("mode=search", "sampler=random"), "search"),
        (("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-3,0.1)"), "hydra.sweeper"),
    ],
)
def test_search_with_a_password_is_gone_on_with_and_writes_it_nowhere(
    program: Program,
    postgresql: str,  # noqa: F811
    tmp_path: Path,
    words: tuple[str, ...],
    section: str,
) -> None:
    given = (f"{section}.n_trials=2", f"{section}.storage={postgresql}", f"{section}.study_name={section}")
    done = program(*words, *QUADRATIC, *given)
    assert done.code == 0, done.err
    again = program(f"resume.sweep={done.run}")
    assert again.code == 0, again.err
    for text in (done.out, done.err, again.out, again.err):
        assert "secret" not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "study.json"]
    assert [str(path) for path in files if b"secret" in path.read_bytes()] == []
