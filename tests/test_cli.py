"""The program as a newcomer meets it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.hydra import Hydra

from tests.conftest import ENVIRONMENT, Program
from tests.processes import Forked


def call(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_lists_groups_and_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['runner', '--help']\n"
        "from runner.__main__ import main\n"
        "try: main()\n"
        "finally: print('HEAVY', sorted({'torch', 'mlflow', 'optuna', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert "optimizer: adadelta, adafactor, adagrad, adam, adamax, adamw" in done.stdout
    assert "python -m runner resume.from=runs/digits/<run>" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_cfg_job_prints_the_page_and_info_works(program: Program, tmp_path: Path) -> None:
    page = program("--cfg", "job", "optimizer=adamw")
    assert page.code == 0
    assert yaml.safe_load(page.out)["optimizer"]["_target_"] == "torch.optim.AdamW"
    info = program("--info", "defaults")
    assert info.code == 0
    assert "optimizer/sgd" in info.out
    assert list(tmp_path.iterdir()) == []


def test_completion_of_the_console_script_offers_options_and_keys(tmp_path: Path) -> None:
    script = (
        f'runner() {{ {sys.executable} -m runner "$@"; }}\n'
        "export COMP_LINE='runner optimizer=ad' COMP_POINT=19\n"
        "runner -sc query=bash\n"
        "export COMP_LINE='runner train.dur' COMP_POINT=16\n"
        "runner -sc query=bash\n"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert "optimizer=adamw" in done.stdout
    assert "train.duration=" in done.stdout
    install = call("-sc", "install=bash", directory=tmp_path)
    assert "complete" in install.stdout


@pytest.mark.usefixtures("pictures")
def test_run_directory_holds_config_records_result_curves_and_checkpoints(program: Program) -> None:
    done = program("train.duration=30", "optimizer=adamw", "optimizer.lr=3e-3", "tags.note=first", "name=mine")
    assert done.code == 0, done.err
    assert done.run.parent == done.directory / "runs/mine"
    names = {path.name for path in done.run.iterdir() if not path.name.startswith(".")}
    assert names == {"config.yaml", "records.jsonl", "result.json", "curves.png", "checkpoints"}
    config = yaml.safe_load((done.run / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.003
    result = json.loads((done.run / "result.json").read_text())
    assert (result["status"], result["title"], result["steps"]) == ("finished", "adamw lr=0.003 cosine w2", 30)
    assert result["tags"] == {
        "task": "digits",
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup": "linear",
        "note": "first",
    }
    assert result["learning_rate"]["origin"] == [{"what": "typed", "where": "the command line", "value": 0.003}]
    assert result["dataset"]["examples"] == {"train": 1400, "val": 397}
    assert result["best"]["loss"] == pytest.approx(result["final"]["val/loss"])
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(30))
    assert {r["split"] for r in records if r["kind"] == "eval"} == {"val"}


def test_the_command_in_result_json_repeats_the_run(program: Program) -> None:
    first = program("train.duration=20", "seed=3", "train.clip_norm=1.0")
    command = json.loads((first.run / "result.json").read_text())["command"]
    assert command.startswith("python -m runner ")
    second = program(*shlex.split(command)[3:])
    losses = [
        [json.loads(line)["loss"] for line in (run / "records.jsonl").read_text().splitlines() if '"step"' in line[:16]]
        for run in (first.run, second.run)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20


@pytest.mark.parametrize(("overrides", "times"), [([], 1), (["optimizer.lr=0.1", "-m"], 1), (["hydra.mode=RUN"], 2)])
def test_hydra_composes_a_page_once_unless_the_mode_may_be_in_it(
    program: Program, monkeypatch: pytest.MonkeyPatch, overrides: list[str], times: int
) -> None:
    compose, found = Hydra.compose_config, list[Any]()

    def counted(*args: Any, **options: Any) -> Any:
        found.append(compose(*args, **options))
        return found[-1]

    monkeypatch.setattr(Hydra, "compose_config", counted)
    done = program("mode=preview", *overrides)
    assert done.code == 0, done.err
    assert len(found) == times


def test_argument_and_tag_that_the_page_lacks_need_no_plus(program: Program) -> None:
    done = program("optimizer.fused=false", "tags.who=me", "train.duration=3")
    assert done.code == 0, done.err
    result = json.loads((done.run / "result.json").read_text())
    assert result["tags"]["who"] == "me"
    assert result["command"] == "python -m runner tracking=off optimizer.fused=false tags.who=me train.duration=3"


def test_command_of_a_page_of_ones_own_names_the_page(program: Program, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/mine.yaml").write_text("defaults: [config, _self_]\ntrain:\n  duration: 3\n")
    words = ["--config-dir", "pages", "--config-name", "mine", "tracking=off", "optimizer.lr=0.2"]
    done = program(*(word for word in words if word != "tracking=off"))
    assert done.code == 0, done.err
    result = json.loads((done.run / "result.json").read_text())
    assert (result["command"], result["planned_steps"]) == (shlex.join(["python", "-m", "runner", *words]), 3)


def test_default_run_learns_the_digits(program: Program) -> None:
    done = program()
    assert done.code == 0, done.err
    result = json.loads((done.run / "result.json").read_text())
    assert result["best"]["accuracy"] > 0.96


def test_diverged_run_says_when_why_and_what_to_try(program: Program) -> None:
    done = program("optimizer.lr=30", "seed=1")
    assert done.code == 3
    assert "diverged: " in done.out
    assert (
        "try a learning rate ten times lower: python -m runner tracking=off seed=1 optimizer.lr=3"
        in done.out.replace("\n", " ")
    )
    assert "Traceback" not in done.err
    result = json.loads((done.run / "result.json").read_text())
    assert result["status"] == "diverged"
    assert (result["stopped_by"]["detector"], result["stopped_by"]["step"]) == ("non_finite", result["steps"])
    assert result["stopped_by"]["evidence"]["lr"] > 1
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    alarm = next(r for r in records if r["kind"] == "alarm")
    assert alarm["evidence"]["lr"] > 0
    assert [r for r in records if r["kind"] == "action"][-1]["type"] == "Stop"


def test_out_of_reach_tracking_is_a_warning_and_the_run_goes_on(program: Program) -> None:
    done = program("tracking.uri=http://127.0.0.1:9", "train.duration=30", tracking="mlflow")
    assert done.code == 0
    assert "tracking.uri: " in done.err
    assert "mode=upload source=" in done.out + done.err


def test_unexpected_error_is_one_line_unless_a_traceback_is_asked_for(program: Program, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from runner.tasks.quadratic import Quadratic\n"
        "class Broken(Quadratic):\n"
        "    def batch(self, step, split, part=(0, 1)):\n"
        "        if step == 1:\n"
        "            raise RuntimeError('the cat sat on the GPU')\n"
        "        return super().batch(step, split, part)\n"
    )
    words = ["task=quadratic", "task._target_=broken.Broken"]
    short = program(*words)
    assert short.code == 1
    assert "RuntimeError: the cat sat on the GPU" in short.err
    assert "Traceback" not in short.err
    run = next(tmp_path.glob("runs/quadratic/*"))
    assert short.run == run
    assert json.loads((run / "result.json").read_text())["status"] == "failed"
    assert "Traceback" in (run / "traceback.txt").read_text()
    environment = {**ENVIRONMENT, "HYDRA_FULL_ERROR": "1"}
    long = Forked("tracking=off", *words, directory=tmp_path, environment=environment)
    assert "Traceback" in long.communicate()[2]


def test_seed_repeats_and_another_seed_differs(program: Program) -> None:
    texts = [
        [
            line.split('"loss":')[1].split(",")[0]
            for line in (program("train.duration=5", f"seed={seed}").run / "records.jsonl").read_text().splitlines()
            if '"grad_norm"' in line
        ]
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # MLflow leaves its sqlite connections open
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")  # SQLAlchemy to MLflow
def test_runs_reach_mlflow_with_status_verdict_curves_and_picture(program: Program) -> None:
    good = program("train.duration=40", "param_groups=no_decay_1d", tracking="mlflow")
    bad = program("optimizer.lr=30", tracking="mlflow")
    assert (good.code, bad.code) == (0, 3)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{good.directory}/runs/mlflow.db")
    results = [json.loads((done.run / "result.json").read_text()) for done in (good, bad)]
    finished, failed = (client.get_run(result["mlflow_run_id"]) for result in results)
    assert [run.info.status for run in (finished, failed)] == ["FINISHED", "FAILED"]
    assert failed.data.tags["verdict"] == results[1]["verdict"]
    assert failed.data.tags["verdict"].startswith("diverged: ")
    assert failed.data.metrics["instability/events_total"] >= 1
    assert finished.info.run_name == "sgd lr=0.1 cosine w2"
    assert finished.data.params["optimizer.lr"] == "0.1"
    assert finished.data.params["train.duration"] == "40"
    assert len(client.get_metric_history(finished.info.run_id, "train/loss")) == 40
    assert {"train/lr", "train/grad_norm", "val/loss", "val/accuracy"} <= finished.data.metrics.keys()
    artifacts = {artifact.path for artifact in client.list_artifacts(finished.info.run_id)}
    assert {"config.yaml", "curves.png", "dataset.json", "result.json"} <= artifacts
    assert "python -m runner" in finished.data.tags["mlflow.note.content"]
