"""mode=preview shows what the learning rate will be, in a table, a plot, a picture and a file, and trains nothing."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner.build_schedules import build_schedules
from runner.config import Config
from runner.curves import AxisRange
from runner.durations import Clock
from runner.job import checked
from runner.rates import initial_value, jumps
from runner.records import StepRecord
from runner.report.schedule_figure import rate_range
from runner.report.terminal_plot import HEIGHT, WIDTH, terminal_plot
from runner.tracking.jsonl import read_records
from tests.conftest import ENVIRONMENT, ROOT, Done, Program
from tests.pages import composed

PNG = b"\x89PNG\r\n\x1a\n"
STEPS = 440  # 20 epochs of 22 batches


def table(done: Done) -> dict[str, list[float]]:
    """The columns of schedule.csv."""
    with (done.run / "schedule.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}


def page(*overrides: str) -> Config:
    """The checked configuration."""
    return checked(composed(*overrides))


def row(done: Done, step: int) -> list[str]:
    """The words of the line of a step."""
    return next(line.split() for line in done.out.splitlines() if line.startswith(f"{step:,} "))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("schedule", ["wsd", "one_cycle", "multistep"])
def test_every_step_of_the_file_is_exactly_what_the_run_uses(program: Program, schedule: str) -> None:
    done = program("mode=preview", f"schedule={schedule}")
    assert done.code == 0, done.err
    config = page(f"schedule={schedule}")
    factor = build_schedules(config, Clock(64, 1400, total_steps=STEPS)).lr()
    found = table(done)
    assert found["step"] == list(range(STEPS + 1))
    assert found["lr"] == [config.optimizer.lr * factor(step) for step in range(STEPS + 1)]
    assert (done.run / "schedule.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in done.run.iterdir()) == ["schedule.csv", "schedule.png"]


def test_table_shows_exact_values_and_why_a_step_is_shown(program: Program) -> None:
    done = program("mode=preview", "schedule=multistep", "warmup.duration=40")
    exact = table(done)["lr"]
    why = {0: "first", 1: "second", 39: "W-1 = peak", 40: "W", 110: "T/4", 220: "T/2 = jump", 330: "3T/4 = jump"}
    for step, words in {**why, 439: "T-1", 440: "T"}.items():
        assert row(done, step) == [str(step), *words.split(), repr(exact[step])]
    assert f"lr: peak 0.1 at step 39, last update {exact[439]!r}" in done.out
    assert max(map(len, done.out.splitlines()[:-3])) <= 80


def test_rates_of_the_preview_are_those_of_the_records_of_the_run(program: Program) -> None:
    declared = ["task=quadratic", "train.duration=30", "schedule=cosine_restarts", "warmup.duration=3"]
    lr = table(program("mode=preview", *declared))["lr"]
    run = program(*declared)
    records = [json.loads(line) for line in (run.run / "records.jsonl").read_text().splitlines()]
    assert [r["lr"] for r in records if r["kind"] == "step"] == lr[:30]


def test_momentum_and_weight_decay_of_the_preview_are_those_of_the_records_of_the_run(program: Program) -> None:
    declared = ["optimizer=adamw", "optimizer.weight_decay=0.1", "param_groups=no_decay_1d", "task.hidden=[8]"]
    declared += ["schedule=one_cycle", "schedule_of=[one_cycle_momentum,weight_decay_cosine]", "train.duration=20"]
    expected = table(program("mode=preview", *declared))
    names = ["momentum", "weight_decay/decay", "weight_decay/no_decay"]
    records = list(read_records(program(*declared).run))
    found = [record.scheduled or {} for record in records if isinstance(record, StepRecord)]
    assert [list(scheduled) for scheduled in found] == [names] * 20
    for name in names:
        column = f"{name}/decay" if name == "momentum" else name
        assert [scheduled[name] for scheduled in found] == expected[column][:20], name


def test_neither_torch_nor_the_data_is_loaded(tmp_path: Path) -> None:
    words = ["mode=preview", "schedule=one_cycle", "schedule_of=[one_cycle_momentum]", "train.duration=20ep"]
    code = (
        "import sys; from runner.__main__ import main; sys.argv = ['runner', *sys.argv[1:]]; code = main(); "
        "print(sorted({'torch', 'sklearn', 'pandas', 'mlflow', 'scipy', 'transformers'} & sys.modules.keys()), code)"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


@pytest.mark.parametrize(
    ("declared", "steps"),
    [
        (["task=quadratic", "train.duration=50"], 50),
        (["task.examples=null", "train.duration=2ep"], 44),
        (["train.duration=2ep", "schedule=multistep", "schedule.milestones=[1ep]"], 44),
        (["train.device=cuda:7", "train.duration=7", "train.precision=fp16"], 7),
        (["train.duration=1"], 1),
    ],
)
def test_length_of_the_run_is_known_or_asked_of_the_data(program: Program, declared: list[str], steps: int) -> None:
    done = program("mode=preview", *declared)
    assert done.code == 0, done.err
    assert table(done)["step"] == list(range(steps + 1))


def test_wrong_number_of_training_examples_is_refused_when_the_data_is_read(program: Program) -> None:
    refused = program("task.examples=1401")
    assert refused.code == 2
    rule = "task.examples: must be the number of training examples (1400), got 1401. Set task.examples=1400."
    assert rule in refused.err
    assert "task.examples: must be null without a data set" in program("task=quadratic", "+task.examples=5").err


def test_groups_of_the_model_and_other_hyperparameters_have_columns_of_their_own(program: Program) -> None:
    declared = ["optimizer=adamw", "param_groups=no_decay_1d", "schedule_of=[weight_decay_cosine]"]
    done = program("mode=preview", *declared)
    assert done.code == 0, done.err
    found = table(done)
    assert list(found) == ["step", "lr/decay", "lr/no_decay", "weight_decay/decay", "weight_decay/no_decay"]
    assert found["lr/decay"] == found["lr/no_decay"]
    assert found["weight_decay/decay"][0] == 0.01
    assert set(found["weight_decay/no_decay"]) == {0.0}


def test_schedules_stand_side_by_side_each_with_its_own_warmup(program: Program) -> None:
    done = program(
        "mode=preview", "preview.schedules=[cosine,wsd,one_cycle]", "schedule=step", "preview.directory=here"
    )
    assert done.code == 0, done.err
    assert done.run == done.directory / "here"
    found = table(done)
    assert list(found) == ["step", "cosine lr", "wsd lr", "one_cycle lr"]
    for name in ("cosine", "wsd", "one_cycle"):
        assert found[f"{name} lr"] == table(program("mode=preview", f"schedule={name}"))["lr"]
    assert row(done, 220)[:2] == ["220", "T/2"]
    assert [float(word) for word in row(done, 220)[2:]] == pytest.approx(
        [found[name][220] for name in list(found)[1:]], rel=1e-9
    )
    assert "warmup" not in done.err + done.out


@pytest.mark.usefixtures("pictures")
def test_many_schedules_have_a_line_and_a_small_panel_each(program: Program) -> None:
    names = ["constant", "linear", "rex", "tanh", "wsd", "step", "range_test"]
    done = program("mode=preview", f"preview.schedules=[{','.join(names)}]")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[3:10]] == names
    assert (done.run / "schedule.png").read_bytes().startswith(PNG)


def test_jobs_of_a_multirun_are_shown_one_by_one_and_then_side_by_side(program: Program) -> None:
    done = program("-m", "mode=preview", "schedule=linear,rex", "preview.directory=both")
    assert done.code == 0, done.err
    assert done.run == done.directory / "both"
    assert list(table(done)) == ["step", "linear lr", "rex lr"]
    assert len(list(done.directory.glob("runs/digits/previews/*/schedule.csv"))) == 2


def test_run_that_goes_on_is_previewed_with_its_cooldown(program: Program) -> None:
    run = program("task=quadratic", "train.duration=20", "schedule=constant", "warmup=none", "name=mine")
    done = program("mode=preview", f"resume.from={run.run}", "overlay=[cooldown]", "train.duration=40")
    assert done.code == 0, done.err
    lr = table(done)["lr"]
    assert lr[:33] == [lr[0]] * 33
    assert lr[32:] == pytest.approx([lr[0] * (40 - step) / 8 for step in range(32, 41)])
    assert done.run.parent == done.directory / "runs/mine/previews"


def test_mistakes_are_named_at_once_and_nothing_is_written(program: Program, tmp_path: Path) -> None:
    done = program("mode=preview", "preview.schedules=[cosine,wds,one_cycl]", "optimizer.lr=nan", "train.duraton=3")
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []
    assert "4 problems in the configuration:" in done.err
    assert re.search(r"preview\.schedules: must be one of chebyshev, .*, got 'wds'\. Did you mean wsd\?", done.err)
    assert re.search(r"preview\.schedules: must be one of .*, got 'one_cycl'\. Did you mean one_cycle\?", done.err)
    assert "optimizer.lr: must be a finite number > 0, got nan." in done.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "preview.schedules=cosine",
            "preview.schedules: must be a list, each item text that is not empty, got 'cosine'.",
        ),
        ("preview.schedules=[1]", "preview.schedules: must be a list, each item text that is not empty, got [1]."),
        ("preview.schedules=['']", "preview.schedules: must be a list, each item text that is not empty, got ['']."),
        ("preview.schedules=[cosine,qqq]", "got 'qqq'. Set preview.schedules=[cosine]."),
        ("preview.schedules=[sgdr]", "got 'sgdr'. Set preview.schedules=[cosine_restarts]."),
        ("preview.directory=file", "preview.directory: must be a directory that can be written, got 'file'"),
        ("preview.schedule=[wsd]", "preview.schedule: unknown key, did you mean preview.schedules?"),
        ("optimizer.lr=-1", "optimizer.lr: must be a finite number > 0, got -1."),
        ("warmup.duration=900", "warmup.duration: must not be longer than the run of 440 steps, got 900 (900 steps)."),
        ("schedule.floor=2", "schedule.floor: "),
        ("resume.from=nowhere", "resume.from: must be a run directory, got 'nowhere'."),
    ],
)
def test_mistake_is_refused(program: Program, tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    done = program("mode=preview", override)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_problem_of_one_of_several_schedules_says_which(program: Program, tmp_path: Path) -> None:
    done = program("mode=preview", "preview.schedules=[cosine,wsd,step]", "schedule=wsd", "schedule.decay=20%")
    assert done.code == 2
    assert re.search(r"schedule\.decay: unknown key.*end, exponent.* \[with cosine\]", done.err)
    assert re.search(r"schedule\.decay: unknown key.*gamma.* \[with step\]", done.err)
    assert list(tmp_path.iterdir()) == []


def test_long_runs_are_thinned_and_keep_the_steps_of_the_table(program: Program) -> None:
    done = program("mode=preview", "train.duration=1000003", "warmup.duration=12345", "quiet=true")
    assert done.out == f"{done.run.relative_to(done.directory)}\n"
    steps = table(done)["step"]
    assert len(steps) <= 100_010
    assert {0, 1, 12344, 12345, 250000, 500001, 750002, 1000002, 1000003} <= set(steps)


def test_jump_is_a_move_that_stands_out() -> None:
    stairs = [1.0] * 5 + [0.1] * 5 + [0.01] * 5
    assert jumps(range(15), stairs) == [5, 10]
    assert jumps(range(100), [1 - step / 100 for step in range(100)]) == []
    assert jumps([0, 10, 20], [1.0, 0.1, 0.1]) == []


def test_axis_is_logarithmic_only_where_the_bulk_spans_decades() -> None:
    fall = [1 - step / 1000 for step in range(1001)]
    assert rate_range([fall]) == AxisRange(-0.05, 1.05, log=False)
    assert rate_range([[10 ** (-step / 250) for step in range(1001)]]).log
    assert rate_range([[0.0, 0.0]]).log is False


@pytest.mark.parametrize(("colour", "encoding"), [(True, "utf-8"), (False, "utf-8"), (False, "ascii")])
def test_plot_fits_its_columns_in_every_terminal(colour: bool, encoding: str) -> None:
    steps = list(range(101))
    lines = {"rising": (steps, [step / 100 for step in steps]), "falling": (steps, [1 - s / 100 for s in steps])}
    text = terminal_plot(lines, rate_range(v for _, v in lines.values()), title="lr", colour=colour, encoding=encoding)
    text.encode(encoding)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert (plain != text) is colour
    assert len(plain.splitlines()) == HEIGHT
    assert max(map(len, plain.splitlines())) <= WIDTH
    assert "rising" in plain


def test_plot_on_a_logarithmic_axis_falls_on_a_straight_line() -> None:
    steps = list(range(0, 401))
    values = [10 ** (-step / 100) for step in steps]
    text = terminal_plot({"lr": (steps, values)}, rate_range([values]), title="lr", colour=False, encoding="ascii")
    marks = [(line.index("*"), line.rindex("*")) for line in text.splitlines() if "*" in line]
    assert len(marks) >= HEIGHT - 5
    assert [first for first, _ in marks] == sorted(first for first, _ in marks)
    widths = [last - first for first, last in marks]
    assert max(widths[1:-1]) - min(widths[1:-1]) <= 2


def test_schedule_of_what_the_optimizer_lacks_is_refused_in_every_mode(program: Program) -> None:
    declared = ["optimizer=adagrad", "schedule=one_cycle", "schedule_of=[one_cycle_momentum]"]
    for mode in ("preview", "train"):
        refused = program(f"mode={mode}", *declared)
        assert refused.code == 2
        assert "schedule_of.momentum: must be a hyperparameter of torch.optim.Adagrad (" in refused.err
        assert not list(refused.directory.iterdir())


def test_hyperparameter_that_the_page_leaves_to_the_class_is_found_there() -> None:
    optimizer = page("optimizer=adamw", "~optimizer.weight_decay").optimizer
    assert initial_value(optimizer, "weight_decay") == 0.01
    assert initial_value(optimizer, "beta2") == 0.999


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("schedule_of=[weight_decay_cosine] optimizer.weight_decay=abc", "optimizer.weight_decay: must be a finite"),
        ("schedule_of=[weight_decay_cosine] optimizer.weight_decay=null", "optimizer.weight_decay: must be a finite"),
        ("+schedule_of.beta1={_target_:runner.schedules.decays.constant} optimizer.betas=0.9", "optimizer.betas: "),
        (
            "schedule_of=[weight_decay_cosine] optimizer.weight_decay=0 optimizer._target_=torch.optim.Nope",
            "._target_: ",
        ),
    ],
)
def test_hyperparameter_that_is_no_number_cannot_be_scheduled(program: Program, overrides: str, message: str) -> None:
    refused = program("mode=preview", "optimizer=adamw", *overrides.split())
    assert refused.code == 2
    assert refused.err.splitlines()[0] == "1 problem in the configuration:"
    assert message in refused.err


def test_note_names_the_scaled_rate_that_the_factors_multiply(program: Program) -> None:
    done = program("mode=preview", "scaling=linear", "scaling.reference_batch_size=16")
    assert done.code == 0, done.err
    assert "optimizer.lr 0.4 after scaling" in done.out


def test_optimizer_of_another_device_is_previewed_here(program: Program) -> None:
    done = program(
        "mode=preview", "optimizer=adamw", "task.examples=null", "train.duration=2ep", "+optimizer.devices=[cuda]"
    )
    assert done.code == 0, done.err


@pytest.mark.slow
def test_page_of_the_documentation_shows_every_schedule(program: Program) -> None:
    folder = ROOT / "experiments/schedules_compared"
    needs_more = {"lambda", "refined", "torch", "transformers", "timm", "optax"}
    known = {path.stem for path in (ROOT / "conf/schedule").glob("*.yaml")} - needs_more
    done = program("--config-dir", str(folder), "--config-name", "preview", "preview.directory=preview")
    assert done.code == 0, done.err
    assert {name.removesuffix(" lr") for name in table(done)} == {"step", *known}
    text = (folder / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == known
    assert f"{len(known)} schedules" in text


def test_peak_is_one_of_the_run_and_not_of_what_comes_after_it(program: Program) -> None:
    done = program("mode=preview", "schedule=cyclic", "schedule.up=500", "train.duration=10", "warmup=none")
    assert "peak 0.01162" in done.out
    assert "at step 9, last update 0.01162" in done.out


def test_momentum_of_a_class_that_the_page_leaves_to_it_is_beta1(program: Program) -> None:
    declared = "task=quadratic optimizer=adam ~optimizer.betas schedule=one_cycle schedule_of=[one_cycle_momentum]"
    done = program("mode=preview", *declared.split())
    assert done.code == 0, done.err
    assert "momentum" in done.out
