"""A trained run is evaluated again, and its model loaded, as the run itself saw it."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.errors import RunnerError
from runner.load import load_model
from runner.tasks.digits import Digits
from tests.conftest import ENVIRONMENT, Done, Program, train_here

DECLARED = ["optimizer=adamw", "optimizer.lr=0.1", "task.hidden=[32]", "train.duration=110", "train.eval_every=10"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run whose best evaluation is not its last."""
    return train_here(*DECLARED, "schedule=constant", directory=tmp_path_factory.mktemp("trained"))


Evaluate = Callable[..., Done]


@pytest.fixture
def evaluate(trained: Done, program: Program) -> Evaluate:
    return functools.partial(program, "mode=eval", f"source={trained.run}", directory=trained.directory)


def result(trained: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((trained.run / "result.json").read_text())
    return found


def last_line(trained: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((trained.run / "evaluations.jsonl").read_text().splitlines()[-1])
    return found


def test_best_checkpoint_gives_the_recorded_best_value(trained: Done, evaluate: Evaluate) -> None:
    best = dict(result(trained)["best"])
    step = best.pop("step")
    assert step < 110
    done = evaluate()
    assert done.code == 0, done.err
    line = last_line(trained)
    assert line["metrics"] == line["recorded"] == best
    assert (line["split"], line["step"]) == ("val", step)
    rows = [row.split() for row in done.out.splitlines()]
    assert ["loss", f"{best['loss']:.6g}", f"{best['loss']:.6g}"] in rows
    assert done.run == trained.run


def test_last_checkpoint_by_name_and_by_path_is_evaluated_on_the_training_data(
    trained: Done, evaluate: Evaluate
) -> None:
    task = Digits(batch_size=1400, seed=0, hidden=(32,))
    batch = task.batch(0, "train")
    assert batch is not None
    with torch.no_grad():
        expected = task.loss(load_model(trained.run, "last"), batch, task.weight(batch))
    for checkpoint in ("last", str(trained.run / "checkpoints/last.pt")):
        assert evaluate("mode.split=train", f"mode.checkpoint={checkpoint}").code == 0
        line = last_line(trained)
        assert line["metrics"]["loss"] == pytest.approx(expected.total.item() / 1400, rel=1e-5)
        assert (line["step"], line["recorded"]) == (110, {})


def test_command_line_changes_what_the_run_declared(trained: Done, evaluate: Evaluate) -> None:
    # the saved page has keys that the default one lacks: betas is no key of the default optimizer
    done = evaluate("train.batch_size=200", "optimizer.betas=[0.8,0.9]")
    assert done.code == 0, done.err
    line = last_line(trained)
    assert line["metrics"]["loss"] == pytest.approx(line["recorded"]["loss"], rel=1e-5)
    assert line["overrides"][-2:] == ["train.batch_size=200", "optimizer.betas=[0.8,0.9]"]


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            ["mode.split=tset", "mode.checkpoint=first"],
            [
                "mode.checkpoint: must be one of the run (best, last) or a file, got 'first'.",
                "mode.split: must be a split of the task (train, val), got 'tset'. Set mode.split=val.",
            ],
        ),
        (
            ["task.hidden=[16]"],
            [
                "mode.checkpoint: must fit the model, but 0.weight has shape [32, 64] in the checkpoint and [16, 64] "
                "here. Evaluate the model that it was trained with."
            ],
        ),
        (
            ["train.device=cuda:9", "task.dropout=2", "mode.weights=best"],
            [
                "mode.weights: must be one of averaged, raw, got 'best'. Set mode.weights=averaged.",
                "task.dropout: must be a finite number >= 0 and < 1, got 2. Set task.dropout=0.0.",
                "train.device: must be a device of this machine",
            ],
        ),
    ],
)
def test_wrong_split_checkpoint_or_model_is_refused(
    trained: Done, evaluate: Evaluate, overrides: list[str], problems: list[str]
) -> None:
    before = sorted(trained.run.iterdir())
    done = evaluate(*overrides)
    assert done.code == 2
    lines = [line.strip() for line in done.err.splitlines()[1:]]
    assert len(lines) == len(problems)
    assert all(line.startswith(problem) for line, problem in zip(lines, problems, strict=True)), done.err
    assert sorted(trained.run.iterdir()) == before


@pytest.mark.parametrize("damage", [b"\x89PNG\xff\xfe\n", b"not json\n", b'{"kind": "step"}\n', b'{"kind": []}\n'])
def test_damaged_records_are_named_after_the_result(
    program: Program, trained: Done, tmp_path: Path, damage: bytes
) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "records.jsonl").write_bytes(damage)
    done = program("mode=eval", f"source={run}")
    assert done.code == 0, done.err
    assert ["loss", f"{result(trained)['best']['loss']:.6g}", "-"] in [row.split() for row in done.out.splitlines()]
    assert done.err.startswith(f"warning {run}/records.jsonl")
    assert done.err.endswith("Mend or remove it to see what the run recorded.\n")
    before = len((trained.run / "evaluations.jsonl").read_text().splitlines())
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == before + 1


def test_why_nothing_recorded_compares_is_said(program: Program, trained: Done, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    saved = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**saved, "dataset": {**saved["dataset"], "digest": "other"}}))
    done = program("mode=eval", f"source={run}")
    assert done.err == "warning source: the data is not that of the run, so nothing it recorded compares.\n"
    (run / "result.json").write_text("{")
    done = program("mode=eval", f"source={run}")
    assert done.err.startswith(f"warning {run}/result.json: must be a readable result, it is missing or damaged. Mend")
    assert done.code == 0


@pytest.mark.parametrize("content", ["", "# nothing\n", "- 1\n", "task: [\n", "seed: 0\n", "text\n"])
def test_saved_page_that_is_none_is_one_problem_that_names_the_file(
    program: Program, trained: Done, tmp_path: Path, content: str
) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "config.yaml").write_text(content)
    for key, words in {"source": ["mode=eval", f"source={run}"], "resume.from": [f"resume.from={run}"]}.items():
        done = program(*words)
        assert done.code == 2
        head, problem = done.err.splitlines()
        assert head == "1 problem in the configuration:"
        assert problem.startswith(f"  {key}: must be a run directory with a readable config.yaml, got {str(run)!r}")
    with pytest.raises(RunnerError, match=r"directory: must be a run directory with a readable config\.yaml, got"):
        load_model(run)


def test_resumed_run_takes_keys_that_only_its_own_page_has(trained: Done, program: Program) -> None:
    longer = ["train.duration=120", "optimizer.betas=[0.8,0.9]"]
    done = program(f"resume.from={trained.run}", *longer, directory=trained.directory)
    assert done.code == 0, done.err
    assert "betas:\n  - 0.8\n  - 0.9\n" in (done.run / "config.yaml").read_text()


ELSEWHERE = """
import sys, torch
from hydra.core.global_hydra import GlobalHydra
from runner.load import load_model
before = torch.get_rng_state()
model = load_model(sys.argv[1])
assert torch.equal(before, torch.get_rng_state()), "the caller's generator has moved"
assert not GlobalHydra.instance().is_initialized()
print(model.training, next(model.parameters()).device, tuple(model(torch.zeros(5, 64)).shape))
"""


def test_model_is_loaded_in_another_directory_and_leaves_nothing_behind(trained: Done, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(trained.run)],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == "False cpu (5, 10)\n"
    assert list(tmp_path.iterdir()) == []


def test_relative_paths_of_a_run_are_taken_from_where_it_was_launched(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, elsewhere = tmp_path / "launch", tmp_path / "elsewhere"
    launch.mkdir()
    elsewhere.mkdir()
    (launch / "data.csv").write_text(
        "a,b,y\n" + "".join(f"{i % 5},{i % 3},{'no' if i % 2 else 'yes'}\n" for i in range(40))
    )
    words = ["task=tabular", "task.path=data.csv", "task.target=y", "train.batch_size=8", "train.duration=2"]
    done = program(*words, directory=launch)
    assert done.code == 0, done.err
    monkeypatch.chdir(elsewhere)
    load_model(done.run)
    assert Path.cwd() == elsewhere
    moved = shutil.copytree(done.run, elsewhere / "moved")
    with pytest.raises(RunnerError, match=r"task\.path: must be a file that is there, got 'data\.csv'"):
        load_model(moved)
    monkeypatch.chdir(launch)
    load_model(moved)


def test_loaded_model_is_as_good_as_the_run_says(trained: Done) -> None:
    batch = Digits(batch_size=397, seed=0).batch(0, "val")
    assert batch is not None
    accuracy = (load_model(str(trained.run))(batch[0]).argmax(dim=1) == batch[1]).float().mean().item()
    assert accuracy == pytest.approx(result(trained)["best"]["accuracy"])


def test_loading_names_what_is_not_there(trained: Done, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"directory: must be a run directory with config\.yaml, got"):
        load_model(tmp_path)
    with pytest.raises(RunnerError, match=r"checkpoint: must be one of the run \(best, last\) or a file, got 'worst'"):
        load_model(trained.run, "worst")
    with pytest.raises(RunnerError, match=r"device: must be auto or a device of this machine \(.*\), got 'tpu'"):
        load_model(trained.run, device="tpu")
    with pytest.raises(RunnerError, match="weights: must be averaged or raw, got 'cooked'"):
        load_model(trained.run, weights="cooked")  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text("task: {_target_: no.such.Task}\ntrain: {batch_size: 4}\nseed: 0\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.pt").touch()
    with pytest.raises(RunnerError, match=r"but one of no.such.Task must be .* imported. Install it, or put"):
        load_model(tmp_path)
