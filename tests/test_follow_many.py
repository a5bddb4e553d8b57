"""One process that sends many runs, while their server comes and goes."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from runner.tracking.directory import LOCK
from runner.tracking.follow_many import ManyFollower
from tests.conftest import wait_for
from tests.tracked_runs import RESULT, RUNNING, closed_port, state_of, step, write_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


def test_runs_that_end_while_the_place_is_gone_arrive_once_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "place").touch()  # no directory yet
    uri, warnings = f"sqlite:///{tmp_path}/place/mlflow.db", list[str]()
    runs = [write_run(tmp_path / f"run{i}", [step(0), step(1)]) for i in range(3)]
    many = ManyFollower(uri=uri, warn=warnings.append)
    many.log_to(tmp_path)
    for run in runs:
        many.follow(run, uri=uri, on_finish=many.ended)
        many.ended(run)
    wait_for(lambda: warnings)
    (tmp_path / "place").unlink()
    assert not many.finish(60), (tmp_path / "tracking.log").read_text()
    assert len(warnings) == 1
    assert "The runs go on; what has not arrived is named at the end." in warnings[0]
    client = MlflowClient(uri)
    assert [len(client.get_metric_history(state_of(run)["run_id"], "train/loss")) for run in runs] == [2, 2, 2]


def test_a_server_that_is_gone_is_not_waited_for_run_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    uri, warnings = f"http://127.0.0.1:{closed_port()}", list[str]()
    runs = [write_run(tmp_path / f"run{i}", [step(0)], RUNNING) for i in range(8)]
    many = ManyFollower(uri=uri, warn=warnings.append)
    many.log_to(tmp_path)
    for run in runs:
        many.follow(run, uri=uri, on_finish=many.ended)
    assert not many.finish(60)
    assert len(warnings) == 1
    tried = [run for run in runs if (run / LOCK).exists()]
    assert 1 <= len(tried) <= 3


def test_a_run_that_cannot_be_sent_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    uri, warnings = f"sqlite:///{tmp_path}/mlflow.db", list[str]()
    runs = [write_run(tmp_path / f"run{i}", [step(0), step(1)]) for i in range(3)]
    (runs[0] / "result.json").write_text("{}")
    many = ManyFollower(uri=uri, warn=warnings.append)
    many.log_to(tmp_path)
    for run in runs:
        many.follow(run, uri=uri, on_finish=many.ended)
    wait_for(lambda: all(state_of(run).get("run_id") for run in runs[1:]))
    assert not many.finish(60)
    client = MlflowClient(uri)
    found = [client.get_run(state_of(run)["run_id"]) for run in runs[1:]]
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    assert [warning for warning in warnings if "run0: cannot be sent (" in warning]
    assert not state_of(runs[0])


def test_where_files_have_no_place_all_else_arrives(tmp_path: Path) -> None:
    uri, warnings = f"sqlite:///{tmp_path}/mlflow.db", list[str]()
    runs = [write_run(tmp_path / f"lauf-ü{i}", [step(0), step(1)]) for i in range(3)]
    MlflowClient(uri).create_experiment(RESULT.experiment, "file:///proc/nowhere")
    many = ManyFollower(uri=uri, warn=warnings.append)
    many.log_to(tmp_path)
    for run in runs:
        many.follow(run, uri=uri, on_finish=many.ended)
        many.ended(run)
    assert not many.finish(60)
    client = MlflowClient(uri)
    ids = [state_of(run)["run_id"] for run in runs]
    assert [len(client.get_metric_history(run_id, "train/loss")) for run_id in ids] == [2, 2, 2]
    assert [client.get_run(run_id).info.status for run_id in ids] == ["FINISHED"] * 3
    assert sum("its files cannot be sent" in warning for warning in warnings) == 3
