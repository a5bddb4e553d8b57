"""mode=diagnose from the command line: what is read, what is printed and written, what is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.diagnosis.curve import Curve
from runner.diagnosis.verdict import CAUSES, Diagnosis, Stretch, Suggestion
from runner.records import StepRecord, to_json
from runner.report.diagnosis_figure import diagnosis_figure
from runner.report.diagnosis_panel import pasted, show_diagnosis, span
from tests.conftest import ENVIRONMENT, Done, Program, train_here
from tests.test_terminal import COLOUR, ESCAPE

PNG = b"\x89PNG\r\n\x1a\n"
TENTH = "LR / 10: try a learning rate ten times lower; add optimizer.lr=..., what the run used, to get numbers"
TEXTBOOK = "source.values=[2.5,2.4,2.6,3.1,4.2,nan]"
CURVE = "step,loss,lr\n" + "".join(f"{step},{2.0 / (1 + step)},0.5\n" for step in range(40))
NAMED = "Set source=<file, run directory, MLflow run, or - for standard input> or source.values=[2.5,2.4,2.6]."


def written(done: Done) -> dict[str, object]:
    """diagnosis.json of a call, after a look at what lies beside it."""
    assert done.code == 0, done.err
    assert sorted(path.name for path in done.run.iterdir()) == ["diagnosis.json", "diagnosis.png"]
    assert (done.run / "diagnosis.png").read_bytes().startswith(PNG)
    found: dict[str, object] = json.loads((done.run / "diagnosis.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run that diverges at no step."""
    return train_here("task=quadratic", "train.duration=30", directory=tmp_path_factory.mktemp("trained"))


def test_six_numbers_give_a_verdict_with_its_confidence_and_overrides(program: Program) -> None:
    done = program("mode=diagnose", TEXTBOOK)
    found = written(done)
    assert found["cause"] == "lr_too_high"
    assert found["verdict"] == "learning rate too high"
    assert isinstance(found["suggestions"], list)
    assert found["suggestions"][0] == {"overrides": [], "why": TENTH}
    confidence = f"{found['confidence']:.0%}"
    lines = done.out.splitlines()
    assert lines[0] == "values: losses, 6 losses, steps 0 to 5"
    assert lines[1] == f"values: learning rate too high (confidence {confidence})"
    assert lines[2] == found["summary"]
    assert f"try 1       {TENTH}" in lines
    assert done.run.parent == done.directory / "runs/curves/diagnoses"


def test_command_line_says_what_the_foreign_run_used(program: Program) -> None:
    words = ["optimizer=adamw", "optimizer.lr=3e-2", "train.clip_norm=1", "warmup.duration=100"]
    found = written(program("mode=diagnose", TEXTBOOK, *words, "mode.directory=here"))
    assert isinstance(found["source"], dict)
    known = {"family": "adaptive", "lr": 0.03, "warmup_steps": 100, "clip_norm": 1.0}
    assert found["source"]["known"] == {**known, "options": {"optimizer": "adamw"}}
    bare = written(program("mode=diagnose", TEXTBOOK))
    assert isinstance(bare["source"], dict)
    assert bare["source"]["known"] == {}


def test_file_is_read_and_what_was_read_is_said(program: Program, tmp_path: Path) -> None:
    (tmp_path / "a (1).csv").write_text(CURVE + "40,,0.5\n")
    done = program("mode=diagnose", "source=a (1).csv", "mode.directory=out")
    source = written(done)["source"]
    assert source == {
        "name": "a (1).csv",
        "format": "table",
        "columns": {"step": "step", "loss": "loss", "lr": "lr"},
        "losses": 40,
        "steps": [0, 40],
        "notes": ["1 empty cell is read as a loss of nan"],
        "known": {},
    }
    assert done.out.splitlines()[:3] == [
        "a (1).csv: table, 40 losses, steps 0 to 40",
        "step from 'step', loss from 'loss', lr from 'lr'",
        "note 1 empty cell is read as a loss of nan",
    ]
    assert done.run == tmp_path / "out"


def test_columns_are_named_on_the_command_line(program: Program, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(CURVE.replace("loss", "my score"))
    done = program("mode=diagnose", "source=x.csv", "source.columns={loss: my score}", "quiet=true", "name=mine")
    assert isinstance(written(done)["source"], dict)
    assert len(done.out.splitlines()) == 1, "quiet prints the directory alone"
    assert done.run.parent == tmp_path / "runs/mine/diagnoses"
    other = program("mode=diagnose", "source=x.csv", "source.columns.loss=score")
    assert other.code == 2
    assert "source.columns.loss: must be a column of the source ('step', 'my score', 'lr'), got 'score'." in other.err


def test_run_of_ours_is_read_with_what_its_page_tells(program: Program, trained: Done) -> None:
    done = program("mode=diagnose", f"source={trained.run}", directory=trained.directory)
    source = written(done)["source"]
    assert isinstance(source, dict)
    assert (source["format"], source["losses"], source["steps"]) == ("run directory", 30, [0, 29])
    known = source["known"]
    assert (known["lr"], known["total_steps"], known["clip_norm"], known["precision"]) == (0.1, 30, "inf", "fp32")
    assert known["options"]["task"] == "quadratic"
    assert done.run.parent == trained.directory / "runs/quadratic/diagnoses"


def test_records_without_their_run_directory_are_read(program: Program, tmp_path: Path) -> None:
    records = [StepRecord(step, 0, 2.0 - step / 10, 0.1, 1.0, 8 * step) for step in range(5)]
    (tmp_path / "moved.jsonl").write_text("".join(to_json(record) + "\n" for record in records))
    assert program("mode=diagnose", "source=moved.jsonl", "quiet=true").code == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run/records.jsonl").write_text('{"kind": "step"}\n')
    done = program("mode=diagnose", "source=run")
    assert done.code == 2
    assert (
        "source: must be a run directory with readable records.jsonl, but run/records.jsonl, line 1: not a" in done.err
    )


def test_multirun_diagnoses_one_file_after_the_other(program: Program, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(CURVE)
    done = program("-m", "mode=diagnose", "source=a.csv,b.csv", "quiet=true", "mode.directory=ignored")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "runs/curves/diagnoses").iterdir())) == 2
    assert not (tmp_path / "ignored").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], f"source: must name a curve, got null. {NAMED}"),
        (["source="], f"source: must name a curve, got ''. {NAMED}"),
        (["source=x.csv", TEXTBOOK], "source: must be left out where source.values are given, got 'x.csv'. Leave one"),
        (["source.values=[]"], "source.values: must hold at least 2 losses, got nothing. Give a longer curve."),
        (["source.values=[1]"], "source.values: must hold at least 2 losses, got one loss, 1. Give a longer curve."),
        (
            ["source.values=[1,a]"],
            "source.values: must be null or a list, each item a number or nan or inf, got [1, 'a']. "
            "Correct item 2 ('a'), or leave it out.",
        ),
        (
            ["source.values=[2.5,abc,2.1]"],
            "got [2.5, 'abc', 2.1]. Correct item 2 ('abc'), or leave it out, as in source.values=[2.5,2.1].",
        ),
        (
            ["source.values=[null,1,2]"],
            "Correct item 1 (null), or leave it out, as in source.values=[1,2], or write nan where it was no number.",
        ),
        (["source.values=[2.5 2.4 nan]"], "got ['2.5 2.4 nan']. Separate with commas: source.values=[2.5,2.4,nan]."),
        (["source.values=1"], "got 1. Set source.values=[2.5,2.4,2.6], the losses in their order."),
        (["source.values=[nan,inf]"], "source: must hold a loss that is finite, got 2 that are not."),
        (["source.colums.loss=x"], "source.colums: unknown key, did you mean source.columns?"),
        (["source.columns.los=x"], "source.columns.los: unknown key, did you mean source.columns.loss?"),
        (
            ["source=no/such.csv"],
            "source: must be there, got 'no/such.csv'. Give a file, a run directory, an MLflow run",
        ),
        (
            ["source=[2.5,2.4]"],
            "source.path: must be text or null, got [2.5, 2.4]. Set source=<path>, or source.values=",
        ),
        ([f"source={'x' * 300}"], "(File name too long). Give another file."),
        (
            ["source=."],
            "source: must be a directory with records.jsonl, trainer_state.json, metrics.csv or TensorBoard",
        ),
        (
            [f"source={'a' * 32}"],
            f"source: must be a run of a server that is named, got '{'a' * 32}'. Set tracking.uri",
        ),
        (
            [f"source={'1' * 32}", "tracking.uri=sqlite:///none.db"],
            f"source: must be a run that sqlite:///none.db has, got '{'1' * 32}'. Check the id",
        ),
        (
            [TEXTBOOK, "mode.directory=/proc/x"],
            "mode.directory: must be a directory that can be written, got '/proc/x'",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_without_a_trace(program: Program, words: list[str], problem: str) -> None:
    done = program("mode=diagnose", *words)
    assert done.code == 2, done.out
    assert problem in done.err
    assert "Traceback" not in done.err
    assert list(done.directory.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"{}\n{}\n"])
def test_file_that_is_no_curve_is_refused_without_a_trace(program: Program, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    done = program("mode=diagnose", "source=x.csv")
    assert done.code == 2, done.out
    assert done.err.startswith("1 problem in the configuration:\n  source")
    assert not (tmp_path / "runs").exists()


def test_source_is_short_for_its_path_on_the_command_line_and_on_a_page(program: Program, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(CURVE)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/mine.yaml").write_text("defaults: [config, _self_]\nsource: x.csv\n")
    for words in (["+source=x.csv"], ["--config-dir=pages", "--config-name=mine"]):
        done = program(*words, "mode=diagnose", "quiet=true")
        assert written(done)["cause"] in CAUSES


def test_what_tells_a_diagnosis_nothing_is_said(program: Program) -> None:
    done = program("mode=diagnose", TEXTBOOK, "optimizer.learning_rate=0.1", "optimizer=soap", "quiet=true")
    assert done.code == 0
    assert done.err.startswith("warning optimizer.learning_rate: tells a diagnosis nothing. Of the run it understands")
    assert done.err.count("warning") == 1


def test_other_modes_take_no_losses(program: Program) -> None:
    done = program(TEXTBOOK)
    assert done.code == 2
    assert (
        "source.values: must be null in this mode, got [2.5, 2.4, 2.6, 3.1, 4.2, nan]. Set mode=diagnose." in done.err
    )


def test_curve_is_piped_in_and_torch_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from runner.__main__ import main; sys.argv = ['runner', *sys.argv[1:]]; code = main(); "
        "print(sorted({'torch', 'sklearn', 'pandas', 'mlflow', 'transformers'} & sys.modules.keys()), code)"
    )
    command = [sys.executable, "-c", code, "mode=diagnose", "source=-", "tracking=off"]
    text = "2.5 2.4 2.6\n3.1 4.2 nan\n"
    ended = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, input=text, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert ended.stdout.splitlines()[0] == "standard input: plain numbers, 6 losses, steps 0 to 5", ended.stderr
    assert ended.stdout.splitlines()[-1] == "[] 0", ended.stderr


DIAGNOSIS = Diagnosis(
    "lr_too_high",
    "the loss rises",
    0.7,
    stretches=(Stretch(1, 4, "rises $x$"), Stretch(5, 5, "nan")),
    suggestions=(Suggestion(("optimizer.lr=0.1,0.2", "remedy=[heal]"), "two at once"),),
)


def test_terminal_shows_a_panel_in_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "60", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_diagnosis(DIAGNOSIS, title="x.csv")
    out = capsys.readouterr().out
    assert COLOUR.search(out)
    lines = [line.strip("│ ").rstrip() for line in ESCAPE.sub("", out).splitlines()]
    assert lines[1:3] == ["learning rate too high (confidence 70%)", "the loss rises"]
    assert "where  steps 1 to 4: rises $x$" in lines
    assert "try 1  -m optimizer.lr=0.1,0.2 'remedy=[heal]'" in lines


def test_overrides_are_quoted_for_the_shell() -> None:
    assert pasted(DIAGNOSIS.suggestions[0]) == "-m optimizer.lr=0.1,0.2 'remedy=[heal]'"
    assert [span(stretch) for stretch in DIAGNOSIS.stretches] == ["steps 1 to 4", "step 5"]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    "curve",
    [
        Curve.of_losses([2.5, 2.4, 2.6, 3.1, 4.2, math.nan]),
        Curve.of_losses([1e-300, 1e300, -1e300, 1.0, 2.0, 3.0]),
        Curve.of_losses([0.0] * 6),
        Curve.of_losses([math.inf, 1.0, 1.0, 1.0, 1.0, math.nan]),
        Curve(range(6), [1.0] * 6, lrs=[0.0] * 6, grad_norms=[0.0] * 6, evals=[(3, math.nan)]),
        Curve(range(6), [1.0] * 6, lrs=[math.nan, *[0.1] * 5], grad_norms=[math.inf, 1, 2, 3, 4, 5], evals=[(9, 1.5)]),
        Curve([0, 10**9], [1.0, 2.0]),
    ],
)
def test_any_curve_has_a_picture(curve: Curve, tmp_path: Path) -> None:
    diagnosis_figure(curve, DIAGNOSIS, tmp_path / "x.png", title="$a_{b")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    assert os.listdir(tmp_path) == ["x.png"]
