"""MLflow follows the records of a run directory: real processes, real databases, a real server."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from runner.errors import ConfigError, TrackingError
from runner.readers.read import read_curve
from runner.records import Alarm, EvalRecord, Record
from runner.tracking.address import absolute, shown
from runner.tracking.directory import ARTIFACTS
from runner.tracking.follower import URI_VARIABLE, Follower, start_follower, upload
from runner.tracking.jsonl import write_result
from runner.tracking.mapping import Counters, lr_colour, metric_name, params, points
from runner.tracking.mlflow import newest_experiment
from runner.tracking.transfer import State, batches
from runner.tracking.ui import serve_ui
from tests.conftest import wait_for
from tests.tracked_runs import CONFIG, RESULT, RUNNING, START_MS, closed_port, state_of, step, write_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),  # MLflow leaves its sqlite connections open
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),  # SQLAlchemy to MLflow
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


def evaluation(number: int) -> EvalRecord:
    return EvalRecord(number, START_MS + number, "val", {"loss": 0.25, "accuracy": 0.9}, best=True)


def alarm(number: int, **values: Any) -> Alarm:
    return Alarm(number, "divergence", "warn", {"loss": 1.0}, "the loss is too high", **values)


def follower_process(directory: Path, uri: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runner.tracking.follower", str(directory)]
    pipe = subprocess.PIPE
    environment = {**os.environ, URI_VARIABLE: uri}
    return subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True, env=environment)


def log_of(directory: Path) -> str:
    return (directory / "tracking.log").read_text(encoding="utf-8")


def finished(follower: Follower, directory: Path) -> str:
    run_id = follower.finish(60)
    assert follower.delivered, log_of(directory)
    assert run_id is not None
    return run_id


def run_of(uri: str, run_id: str) -> Run:
    return MlflowClient(tracking_uri=uri).get_run(run_id)


def history(uri: str, run_id: str, key: str) -> list[Metric]:
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)
    return sorted(found, key=lambda metric: (metric.step, metric.timestamp, metric.value))


def values(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in history(uri, run_id, key)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/new folder/mlflow.db"


@pytest.fixture(scope="module")
def sent(database: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with a bit of everything, and the id of its MLflow run."""
    records: list[Record] = [
        step(
            0,
            lrs={"decay": 0.1, "bias/no decay": 0.2},
            scheduled={"beta2": 0.9},
            clipped=True,
            signals={"update@norm": 3.0},
        ),
        step(1, loss=math.inf, grad_norm=math.nan, clipped=False),
        step(2, lr_scale=0.5),
        alarm(2),
        *(step(number) for number in range(3, 20)),
        evaluation(20),
        alarm(20),
        step(20),
        step(21),
    ]
    directory = write_run(tmp_path_factory.mktemp("run") / "digits" / "first", records)
    for name in ARTIFACTS:
        (directory / name).write_bytes(b"not really a picture")
    return directory, finished(start_follower(directory, uri=database, warn=print), directory)


def test_every_step_arrives_with_its_own_time(database: str, sent: tuple[Path, str]) -> None:
    loss = history(database, sent[1], "train/loss")
    assert [(point.step, point.timestamp) for point in loss] == [(number, START_MS + number) for number in range(22)]
    assert loss[9].value == 1 / 10
    assert values(database, sent[1], "train/lr") == [(number, 0.1) for number in range(22)]
    assert values(database, sent[1], "train/clipped") == [(0, 1.0), (1, 0.0)]
    assert values(database, sent[1], "val/accuracy") == [(20, 0.9)]
    assert values(database, sent[1], "val/loss") == [(20, 0.25)]


def test_groups_and_signals_have_names_that_mlflow_accepts(database: str, sent: tuple[Path, str]) -> None:
    metrics = run_of(database, sent[1]).data.metrics
    assert metrics["train/lr/decay"] == 0.1
    assert metrics["train/lr/bias/no decay"] == 0.2
    assert metrics["train/beta2"] == 0.9
    assert metrics["signals/update_norm"] == 3.0
    assert metric_name("signals", "../a//b%") == "signals/a/b_"


def test_lr_scale_is_sent_while_it_differs_from_one_and_when_it_returns(database: str, sent: tuple[Path, str]) -> None:
    assert values(database, sent[1], "train/lr_scale") == [(2, 0.5), (3, 1.0)]


def test_inf_reaches_mlflow_as_nan(database: str, sent: tuple[Path, str]) -> None:
    for key in ("train/loss", "train/grad_norm"):
        assert [point.step for point in history(database, sent[1], key) if math.isnan(point.value)] == [1]
    data = run_of(database, sent[1]).data
    assert data.metrics["instability/first_nonfinite_step"] == 1
    assert not any(abs(point.value) > 1e100 for key in data.metrics for point in history(database, sent[1], key))


def test_alarms_make_a_staircase_from_the_first_to_the_last_step(database: str, sent: tuple[Path, str]) -> None:
    stairs = [(0, 0), (1, 0), (2, 1), (19, 1), (20, 2), (21, 2)]
    assert values(database, sent[1], "instability/events_total") == stairs
    assert values(database, sent[1], "instability/first_step") == [(2, 2)]


def test_params_are_dotted_and_short(database: str, sent: tuple[Path, str]) -> None:
    assert run_of(database, sent[1]).data.params == {
        "optimizer._target_": "torch.optim.AdamW",
        "optimizer.lr": "0.1",
        "optimizer.betas": "[0.9,0.999]",
        "train.clip_norm": "null",
        "train.compile": "false",
        "train.note": "x" * 497 + "...",
        "tags": "{}",
    }


def test_tags_note_status_name_and_times_tell_the_story(database: str, sent: tuple[Path, str]) -> None:
    run = run_of(database, sent[1])
    tags = run.data.tags
    assert (run.info.status, run.info.run_name) == ("FINISHED", "adamw lr=0.1 cosine w100")
    assert (run.info.start_time, run.info.end_time) == (START_MS, START_MS + 21)
    assert (tags["task"], tags["status"], tags["verdict"]) == ("digits", "finished", "finished")
    assert tags["mlflow.runColor"] == lr_colour(0.1)
    for part in ("**finished**", "loss 0.25, accuracy 0.9 at step 20", "python -m runner optimizer=adamw"):
        assert part in tags["mlflow.note.content"]
    experiment = MlflowClient(tracking_uri=database).get_experiment(run.info.experiment_id)
    assert experiment.name == "digits"


def test_artifacts_and_dataset_are_there(database: str, sent: tuple[Path, str]) -> None:
    client = MlflowClient(tracking_uri=database)
    names = [file.path for file in client.list_artifacts(sent[1])]
    assert names == sorted(["config.yaml", "dataset.json", "result.json", *ARTIFACTS])
    assert {"curves.png", "sweep.json", "lr_report.json", "lr_report.png", "lr_report.html"} <= set(ARTIFACTS)
    run = run_of(database, sent[1])
    folder = Path(absolute(database).removeprefix("sqlite:///")).parent / "mlartifacts"
    result = json.loads((folder / sent[1] / "artifacts" / "result.json").read_text(encoding="utf-8"))
    assert (result["title"], result["mlflow_run_id"]) == ("adamw lr=0.1 cosine w100", sent[1])
    assert run.inputs is not None
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "0123456789abcdef")


def test_run_of_mlflow_is_read_as_a_curve(database: str, sent: tuple[Path, str]) -> None:
    for spelling in (sent[1], f"runs:/{sent[1]}", f"mlflow:{sent[1]}"):
        reading = read_curve(spelling, {}, uri=database)
        curve = reading.curve
        assert (reading.name, reading.rows, len(curve.losses)) == ("adamw lr=0.1 cosine w100", 22, 22)
        assert (curve.losses[9], curve.evals) == (1 / 10, [(20, 0.25)])
        assert math.isnan(curve.losses[1])
        assert list(curve.lrs or ()) == [0.1] * 22
        assert reading.columns["grad_norm"] == "train/grad_norm"
        assert (curve.known.family, curve.known.lr, curve.known.clip_norm) == ("adaptive", 0.1, math.inf)


def test_run_of_mlflow_without_a_loss_lists_its_metrics(database: str, sent: tuple[Path, str]) -> None:
    client = MlflowClient(tracking_uri=database)
    run_id = client.create_run("0", run_name="no loss").info.run_id
    for name in ("accuracy", "speed"):
        client.log_metric(run_id, name, 1.0)
    with pytest.raises(ConfigError, match=r"as no name says it, got run no loss with 'accuracy', 'speed'\. Set source"):
        read_curve(run_id, {}, uri=database)
    with pytest.raises(ConfigError, match=f"source: must be a run that sqlite.* has, got '{'0' * 32}'"):
        read_curve("0" * 32, {}, uri=database)
    with pytest.raises(
        ConfigError, match=r"source: must be a run of a server that answers, but tracking\.uri: must be"
    ):
        read_curve(f"http://127.0.0.1:{closed_port()}/#/experiments/1/runs/{run_id}", {}, uri=database)


def test_sending_twice_leaves_one_point_a_step(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0), step(1, loss=math.inf), step(2), alarm(2), step(3)])
    run_id = upload(directory, uri=database)
    first = run_of(database, run_id)
    forgetful = {**state_of(directory), "sent": 0, "counters": Counters()._asdict()}
    (directory / "mlflow.json").write_text(json.dumps({forgetful["uri"]: forgetful}), encoding="utf-8")
    assert upload(directory, uri=database) == run_id
    again = run_of(database, run_id)
    assert (again.data.params, again.data.tags) == (first.data.params, first.data.tags)
    assert again.inputs is not None
    assert len(again.inputs.dataset_inputs) == 1
    assert again.info.status == "FINISHED"
    for key in first.data.metrics:
        steps = Counter(point.step for point in history(database, run_id, key))
        assert set(steps.values()) == {1}, key


def test_a_follower_that_was_killed_is_continued_where_it_stopped(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0, loss=math.inf), step(1), alarm(1), step(2)], RUNNING)
    process = follower_process(directory, database)
    state = wait_for(lambda: (found := state_of(directory)).get("sent") and found)
    process.kill()
    process.communicate()
    assert run_of(database, state["run_id"]).info.status == "RUNNING"
    write_run(directory, [step(3), step(4), alarm(4), step(5)], RUNNING)
    follower = start_follower(directory, uri=database, warn=print)
    write_result(directory, RESULT)
    assert finished(follower, directory) == state["run_id"]
    assert [number for number, _ in values(database, state["run_id"], "train/loss")] == list(range(6))
    stairs = [(0, 0), (1, 1), (3, 1), (4, 2), (5, 2)]
    assert values(database, state["run_id"], "instability/events_total") == stairs
    assert values(database, state["run_id"], "instability/first_nonfinite_step") == [(0, 0)]


def test_an_interrupted_run_goes_on_in_the_same_mlflow_run(database: str, tmp_path: Path) -> None:
    interrupted = replace(RESULT, status="interrupted", verdict="interrupted by SIGINT at step 2")
    directory = write_run(tmp_path / "run", [step(0), step(1)], interrupted)
    run_id = upload(directory, uri=database)
    assert run_of(database, run_id).info.status == "KILLED"
    changed = {**CONFIG, "tags": {"more": 1}, "resume": {"from": str(directory)}}
    write_run(directory, [step(2)], RUNNING, changed)
    follower = start_follower(directory, uri=database, warn=print)
    wait_for(lambda: run_of(database, run_id).info.status == "RUNNING")
    write_result(directory, replace(RESULT, status="diverged", verdict="diverged: inf at step 2"))
    assert finished(follower, directory) == run_id
    run = run_of(database, run_id)
    assert (run.info.status, run.data.tags["verdict"]) == ("FAILED", "diverged: inf at step 2")
    assert [number for number, _ in values(database, run_id, "train/loss")] == [0, 1, 2]
    assert run.data.params["tags"] == "{}"  # what MLflow has, it keeps


def test_the_run_of_a_killed_trainer_ends_as_killed(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0), step(1)], RUNNING)
    trainer = (
        "import os, pathlib, sys; from runner.tracking.follower import start_follower;"
        "start_follower(pathlib.Path(sys.argv[1]), uri=sys.argv[2], warn=print);"
        "assert 'mlflow' not in sys.modules; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", trainer, str(directory), database], check=False)
    assert done.returncode == -signal.SIGKILL
    run_id = wait_for(lambda: state_of(directory).get("run_id"))
    wait_for(lambda: run_of(database, run_id).info.status == "KILLED")
    assert run_of(database, run_id).data.tags["verdict"] == "killed"
    assert len(history(database, run_id, "train/loss")) == 2


@pytest.mark.parametrize("processes", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_start_on_a_fresh_database_at_once(tmp_path: Path, processes: int) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    directories = [write_run(tmp_path / f"run{number}", [step(0), step(1)]) for number in range(processes)]
    followers = [start_follower(directory, uri=uri, warn=print) for directory in directories]
    ids = {finished(follower, directory) for follower, directory in zip(followers, directories, strict=True)}
    assert len(ids) == processes
    assert {len(history(uri, run_id, "train/loss")) for run_id in ids} == {2}
    assert newest_experiment(uri) == run_of(uri, ids.pop()).info.experiment_id


def test_an_unreachable_server_costs_one_line_and_loses_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    uri = f"http://127.0.0.1:{closed_port()}"
    directory = write_run(tmp_path / "run", [step(0), step(1)], RUNNING)
    process = follower_process(directory, uri)
    assert process.stderr is not None
    warning = process.stderr.readline()
    assert warning == (
        f"tracking.uri: must be a reachable MLflow server, got {uri} (Connection refused). The run goes on; "
        f"send it later with: python -m runner mode=upload source={directory} tracking.uri={uri}\n"
    )
    write_result(directory, RESULT)
    _, more = process.communicate("60\n", timeout=120)
    assert (process.returncode, more) == (1, "")
    with pytest.raises(TrackingError, match=r"^tracking\.uri: must .* \(Connection refused\)\. Nothing is lost[^\n]*$"):
        upload(directory, uri=uri)
    run_id = upload(directory, uri=database)
    assert len(history(database, run_id, "train/loss")) == 2
    assert run_of(database, run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_sent_elsewhere_and_back_is_still_one_run(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0), step(1)])
    elsewhere = f"sqlite:///{tmp_path}/other.db"
    first, second = upload(directory, uri=database), upload(directory, uri=elsewhere)
    assert upload(directory, uri=database) == first != second
    assert len(history(elsewhere, second, "train/loss")) == 2


def test_a_trainer_waits_no_longer_than_it_wants(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0)])
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        follower = start_follower(directory, uri=f"http://127.0.0.1:{frozen.getsockname()[1]}", warn=print)
        started = time.monotonic()
        assert follower.finish(0.2) is None
        assert not follower.delivered
        assert time.monotonic() - started < 60, "MLflow waits for two minutes"


def test_upload_refuses_what_is_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"got .* without records\.jsonl and result\.json\.$"):
        upload(tmp_path, uri="sqlite:///mlflow.db")


def test_a_run_that_is_being_sent_is_not_uploaded_as_well(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0)], RUNNING)
    follower = start_follower(directory, uri=database, warn=print)
    wait_for(lambda: state_of(directory).get("sent"))
    with pytest.raises(TrackingError, match="must be a run that nothing else is sending"):
        upload(directory, uri=database)
    write_result(directory, RESULT)
    finished(follower, directory)


def test_a_deleted_experiment_comes_back_and_a_deleted_run_is_made_anew(database: str, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0)], replace(RESULT, experiment="deleted"))
    first = upload(directory, uri=database)
    client = MlflowClient(tracking_uri=database)
    client.delete_experiment(run_of(database, first).info.experiment_id)
    second = upload(directory, uri=database)
    assert second != first
    experiment = client.get_experiment_by_name("deleted")
    assert experiment is not None
    assert experiment.lifecycle_stage == "active"
    assert len(history(database, second, "train/loss")) == 1


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_has_every_point_once(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    port = closed_port()
    with socket.create_server(("127.0.0.1", port)):
        ui = serve_ui(database, port=port)  # taken: the next one it is
    uri, _, page = ui.link.partition("/#")
    assert uri != f"http://127.0.0.1:{port}"
    assert page == "/experiments"
    directory = write_run(tmp_path / "digits" / "run", [step(0), step(1)], RUNNING)
    follower = start_follower(directory, uri=uri, warn=print)
    try:
        wait_for(lambda: state_of(directory).get("sent"))
    finally:
        assert ui.process is not None
        os.killpg(ui.process.pid, signal.SIGKILL)
        ui.process.wait()
    write_run(directory, [step(number) for number in range(2, 1500)], RESULT)
    run_id = follower.finish(60)
    assert run_id is not None
    assert not follower.delivered
    ui = serve_ui(database, port=int(uri.rpartition(":")[2]))
    try:
        assert ui.link == f"{uri}/#/experiments/1/runs?compareRunsMode=CHART"
        assert newest_experiment(uri) == "1"
        assert upload(directory, uri=uri) == run_id
        files = [file.path for file in MlflowClient(tracking_uri=uri).list_artifacts(run_id)]
        assert files == ["config.yaml", "dataset.json", "result.json"]
    finally:
        ui.stop()
    assert run_of(database, run_id).info.status == "FINISHED"
    assert [number for number, _ in values(database, run_id, "train/loss")] == list(range(1500))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here: /usr/lib/postgresql/*/bin/initdb is missing (apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None
    bin_, port = found[-1].parent, closed_port()
    with tempfile.TemporaryDirectory(prefix="stepsize-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        if user is not None:
            subprocess.run(["chown", user, folder], check=True)

        def call(*command: str) -> None:
            quiet = subprocess.DEVNULL
            subprocess.run([str(bin_ / command[0]), *command[1:]], check=True, user=user, cwd=folder, stdout=quiet)

        call("initdb", "-D", f"{folder}/data", "-U", "postgres", "--auth=trust")
        options = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
        call("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


@pytest.mark.slow
def test_postgresql_takes_several_at_once_and_never_sees_its_password(postgresql: str, tmp_path: Path) -> None:
    config = {**CONFIG, "tracking": {"uri": postgresql}}
    directories = [
        write_run(tmp_path / "digits" / f"run{number}", [step(0), step(1, loss=math.inf)], config=config)
        for number in range(4)
    ]
    followers = [start_follower(directory, uri=postgresql, warn=print) for directory in directories]
    ids = {finished(follower, directory) for follower, directory in zip(followers, directories, strict=True)}
    assert len(ids) == 4
    for run_id in ids:
        run = run_of(postgresql, run_id)
        assert [number for number, _ in values(postgresql, run_id, "train/loss")] == [0, 1]
        assert run.data.params["tracking.uri"] == shown(postgresql)
    folder = tmp_path / "mlartifacts"
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
    assert len(texts) == 12
    assert not any("secret" in text for text in [*texts, (directories[0] / "mlflow.json").read_text(encoding="utf-8")])


def test_a_postgresql_that_is_gone_is_refused_within_seconds(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [step(0)])
    uri = f"postgresql://me:secret@127.0.0.1:{closed_port()}/runs"
    with pytest.raises(TrackingError, match=r"got postgresql://me:\*\*\*@127\S+ \(Connection refused\)\.") as raised:
        upload(directory, uri=uri)
    assert "secret" not in str(raised.value)


def test_only_whole_lines_are_sent(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [step(0)])
    path = directory / "records.jsonl"
    whole = path.stat().st_size
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind":"step","step":1,"ti')
    (batch,) = batches(path, State("here"))
    assert batch.after.sent == whole
    assert list(batches(path, batch.after)) == []


def test_a_batch_has_at_most_a_thousand_points_and_all_of_them_are_sent(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [step(number, clipped=True) for number in range(1000)])
    found = list(batches(directory / "records.jsonl", State("here")))
    assert [len(batch.points) for batch in found] == [997, 1000, 1000, 1000, 4]  # whole lines only
    assert found[-1].after.sent == (directory / "records.jsonl").stat().st_size
    assert list(batches(directory / "records.jsonl", found[1].after)) == found[2:]


def test_actions_are_a_stair_of_their_own() -> None:
    from runner.records import Action

    first, counters = points(Action(3, "stop", "Rollback"), Counters(step=3))
    assert [(point.key, point.value, point.step) for point in first] == [
        ("instability/actions_total", 0, 2),
        ("instability/actions_total", 1, 3),
    ]
    second, counters = points(Action(4, "stop", "Stop"), counters)
    assert [(point.value, point.step) for point in second] == [(2, 4)]
    assert counters == Counters(step=3, actions=2, actions_step=4)


def test_a_run_without_config_has_no_params(tmp_path: Path) -> None:
    assert params(tmp_path) == {}


def test_colours_go_from_blue_to_red_and_stay_there() -> None:
    assert [lr_colour(lr) for lr in (0.0, 1e-9, 1e-6)] == ["#3b2fb8"] * 3
    assert [lr_colour(lr) for lr in (10.0, 1e3)] == ["#b0122b"] * 2
    decades = [bytes.fromhex(lr_colour(10.0**exponent)[1:]) for exponent in range(-6, 2)]
    assert all(math.dist(one, other) > 50 for one, other in pairwise(decades))


def test_a_relative_sqlite_uri_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert absolute("sqlite:////a/mlflow.db") == "sqlite:////a/mlflow.db"
    assert absolute("http://host:5000") == "http://host:5000"


def test_no_database_has_no_newest_experiment(tmp_path: Path) -> None:
    assert newest_experiment(f"sqlite:///{tmp_path}/none.db") is None
    assert list(tmp_path.iterdir()) == []
