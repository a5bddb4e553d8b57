"""The report that a sweep over learning rates ends in: files, terminal, MLflow, the page to go on with, and anew."""

import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ConfigError
from runner.finding.observed import Observed
from runner.finding.report import lr_report
from runner.finding.words import headline
from runner.found_page import write_found_page, write_recommendation
from runner.lr_end import end_with_report, metrics_of, tags_of
from runner.report.lr_figure import lr_svg, write_lr_figure
from runner.report.lr_files import Commands, write_lr_report
from runner.report.style import DPI, WIDTH_INCHES
from runner.tracking.jsonl import read_records, read_result
from runner.tracking.mapping import Counters, points
from runner.tracking.sweep_file import Job, JobState, Sweep
from runner.tracking.sweep_observed import find_known_runs, lr_key, observe_job, write_known
from runner.tracking.sweep_observed import observe as observe_sweep
from tests.conftest import Done, Program, Refusal, drawn, train_here
from tests.sweeps import sweep_of
from tests.test_figures import count
from tests.test_finding_report import observe

CHROMIUM = shutil.which("chromium")
FILES = ("lr_report.json", "lr_report.png", "lr_report.html")
RATES = "optimizer.lr=3e-3,1e-2,3e-2,1e-1,3"
QUADRATIC = ("task=quadratic", "optimizer.momentum=0", "train.duration=60", "warmup=none", "schedule=constant", "-m")
SWEEP = (*QUADRATIC, RATES, "seed=0,1")
RED, GREEN = "#f4d6bf", "#a6ddce"  # of the rows below the losses


class Page(HTMLParser):
    """Collects what a page would load, its text, and the texts that the mouse shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "action", "data")
        self.loads += [value or "" for name, value in attrs if name in names]
        self.loads += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for _, value in attrs))
        assert tag not in ("script", "link", "iframe", "img")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "lr_report.json").read_text())
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A sweep whose largest rate diverges. Its directory is not to be changed."""
    with drawn():
        return train_here(*SWEEP, directory=tmp_path_factory.mktemp("swept"))


def test_sweep_over_learning_rates_ends_with_its_report(swept: Done) -> None:
    assert all((swept.run / name).is_file() for name in FILES)
    report = report_of(swept.run)
    [group] = report["groups"]
    assert report["override"] == f"optimizer.lr={group['recommended']:g}"
    assert f"recommended: {report['headline']}" in swept.out.splitlines()
    assert group["edge"] == {"stable": 0.1, "first_failing": 3.0, "hopeless": 3.0}
    assert [rate["failures"]["failed"] for rate in group["rates"]] == [0, 0, 0, 0, 2]
    assert group["interval"]["low"] <= group["fit"]["lr"] <= group["interval"]["high"]
    assert group["is_capped"]
    assert group["recommended"] == 0.0333
    assert math.isfinite(group["initial_loss"])
    assert group["basin"]["decades"] == pytest.approx(math.log10(group["basin"]["high"] / group["basin"]["low"]))
    assert {"value", "low", "high", "decades"} == group["windowed"].keys()
    assert group["slopes"]["higher"] is None, "nothing was tried between 0.1 and 3"
    assert group["edge_next"] == [0.3, 1.0]
    assert "Where between these it lies is not known: add optimizer.lr=0.3,1." in swept.out
    assert report["fixed"]["train.duration"] == "60"
    assert report["fixed"]["schedule"] == "constant"
    assert "optimizer.lr" not in report["fixed"]
    steps = sum(job["steps"] for job in sweep_of(swept)["jobs"])
    assert report["cost"]["full_runs"] == pytest.approx(steps / 60)
    assert {run["run"] for run in report["runs"]} == {job["run"] for job in sweep_of(swept)["jobs"]}


def test_line_to_use_it_trains_with_it(swept: Done, program: Program) -> None:
    [line] = [text for text in swept.out.splitlines() if text.startswith("use it with: ")]
    words = line.removeprefix("use it with: python -m runner ").split()
    assert "-m" not in words
    assert not any(word.startswith("seed=") for word in words)
    done = program(*words)
    assert done.code == 0, done.err
    config = (done.run / "config.yaml").read_text()
    assert f"lr: {report_of(swept.run)['groups'][0]['recommended']}" in config


def test_page_loads_nothing_and_names_every_run(swept: Done) -> None:
    text = (swept.run / "lr_report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert [target for target in page.loads if not target.startswith("#")] == []
    assert "default-src 'none'" in text
    words = "\n".join(page.words)
    report = report_of(swept.run)
    assert report["headline"] in words
    assert all(sentence in words for sentence in report["sentences"]["groups"][""])
    for run in report["runs"]:
        assert words.count(run["run"]) == (1 if run["status"] == "diverged" else 2)  # table, and mark in the picture
    assert len(text) < 200_000


def test_summary_has_the_recommendation_as_tags_and_metrics(swept: Done) -> None:
    report, recommended = report_of(swept.run), report_of(swept.run)["groups"][0]["recommended"]
    result = read_result(swept.run)
    assert result.tags["lr.recommended"] == f"{recommended:g}"
    assert (result.tags["lr.override"], result.tags["lr.report"]) == (report["override"], report["headline"])
    assert result.tags["lr.is_at_edge"] == "true"
    *_, record = read_records(swept.run)
    metrics = {point.key: point.value for point in points(record, Counters())[0]}
    assert metrics["sweep/lr.recommended"] == recommended
    assert metrics["sweep/lr.largest_stable"] == 0.1
    assert metrics["sweep/lr.interval_low"] == report["groups"][0]["interval"]["low"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # MLflow leaves its sqlite connections open
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")  # SQLAlchemy to MLflow
def test_mlflow_has_the_report_on_the_summary(swept: Done, earlier: Path, program: Program) -> None:
    for name in FILES:
        shutil.copy(swept.run / name, earlier / name)
    done = program("mode=upload", f"source={earlier.relative_to(earlier.parents[2])}", tracking="mlflow")
    assert done.code == 0, done.err
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{done.directory}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("quadratic")
    assert experiment is not None
    [summary] = client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'summary'")
    assert set(FILES) <= {artifact.path for artifact in client.list_artifacts(summary.info.run_id)}
    report = report_of(swept.run)
    recommended = report["groups"][0]["recommended"]
    assert summary.data.tags["lr.recommended"] == f"{recommended:g}"
    assert summary.data.tags["lr.override"] == report["override"]
    assert summary.data.tags["lr.report"] == report["headline"]
    assert summary.data.metrics["sweep/lr.recommended"] == recommended
    assert summary.data.metrics["sweep/lr.largest_stable"] == 0.1


def test_every_run_diverged_recommends_lower_rates_and_exits_with_3(program: Program) -> None:
    done = program(*QUADRATIC, "optimizer.lr=10,30")
    assert done.code == 3
    assert (
        "no recommendation: a run failed at every learning rate; try lower ones: optimizer.lr=0.1,0.3,1,3" in done.out
    )
    report = report_of(done.directory / done.out.strip().splitlines()[-1])
    assert report["groups"][0]["recommended"] is None
    assert report["override"] == ""


@pytest.mark.parametrize("varied", ["seed=0,1", "optimizer.lr=0.1"])
def test_sweep_over_something_else_has_no_report(program: Program, varied: str) -> None:
    done = program(*QUADRATIC, "train.duration=3", varied, "optimizer.nesterov=false")
    assert done.code == 0, done.err
    assert not (done.run / "lr_report.json").exists()
    assert "recommended" not in done.out


def test_what_a_search_made_a_run_for_is_a_tag_and_no_group(program: Program) -> None:
    purpose = ("+tags.purpose=grid,verify", "train.duration=3,6", "optimizer.lr=0.01,0.02")
    done = program(*(word for word in QUADRATIC if "duration" not in word), *purpose)
    assert done.code == 0, done.err
    [group] = report_of(done.run)["groups"]
    assert group["name"] == ""
    assert (group["full_steps"], group["short_runs"], group["verified"]["runs"]) == (6, 2, 2)
    cost = report_of(done.run)["cost"]
    assert (cost["full_runs"], cost["verify_full_runs"]) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("varied", "key", "rates", "group"),
    [
        (({"optimizer.lr": "1"}, {"optimizer.lr": "2"}), "optimizer.lr", [1.0, 2.0], ""),
        (({"optimizer.d_coef": "0.5"}, {"optimizer.d_coef": "2"}), "optimizer.d_coef", [0.5, 2.0], ""),
        (({"optimizer.lr": "1", "seed": "0"}, {"optimizer.lr": "1", "seed": "1"}), None, [], ""),
        (
            ({"optimizer.lr": "1", "clip": "a b"}, {"optimizer.lr": "2", "clip": "a b"}),
            "optimizer.lr",
            [1.0, 2.0],
            "'clip=a b'",
        ),
    ],
)
def test_what_varies_tells_the_learning_rate_and_the_groups(
    varied: tuple[dict[str, str], ...], key: str | None, rates: list[float], group: str, tmp_path: Path
) -> None:
    jobs = tuple(
        Job(nth, (), one, "x", float(one.get("optimizer.lr", 1)), int(one.get("seed", 0)))
        for nth, one in enumerate(varied, start=1)
    )
    sweep = Sweep("id", "", (), (), jobs, "")
    assert lr_key(sweep) == key
    if key is not None:
        found = observe_sweep(sweep, [JobState(status="diverged")] * len(jobs), tmp_path, key=key)
        assert [one.lr for one in found] == rates
        assert {one.group for one in found} == {group}
        assert lr_report(found, key=key).groups[0].name == group


def test_what_a_run_came_to_includes_its_best_evaluation_and_runs_written_without_that_are_read(tmp_path: Path) -> None:
    jobs = (Job(1, (), {"optimizer.lr": "1"}, "x", 1.0, 0),)
    state = JobState("finished", loss=0.1, val_loss=3.0, best_val_loss=0.9, final_loss=3.0)
    [one] = observe_sweep(Sweep("id", "", (), (), jobs, ""), [state], tmp_path)
    assert (one.loss, one.best_loss, one.train_loss) == (3.0, 0.9, 0.1)
    old = one._asdict()
    del old["best_loss"], old["train_loss"]
    (tmp_path / "known.json").write_text(json.dumps([old | {"first_loss": 2.3}]))
    found = find_known_runs(tmp_path)
    assert found is not None
    assert math.isnan(found[0].best_loss)
    assert found[0].loss == 3.0


def test_line_to_use_it_leaves_out_what_workers_were_given(tmp_path: Path) -> None:
    given = ("task=quadratic", "optimizer=sgd", "train.threads=1", "train.device=cuda:0", "name=x")
    rates = ("0.01", "0.03", "0.1")
    jobs = tuple(
        Job(nth, (*given, f"optimizer.lr={lr}"), {"optimizer.lr": lr, "optimizer": "sgd"}, "x", float(lr), 0)
        for nth, lr in enumerate(rates, start=1)
    )
    states = [JobState("finished", run="gone", steps=9, planned_steps=9, final_loss=loss) for loss in (2.0, 1.0, 2.0)]
    write_known(tmp_path, observe(group="optimizer=adamw"))
    sweep = Sweep("id", "", (), ("task=quadratic", "train.device=cuda:0"), jobs, "")
    told = end_with_report(tmp_path, sweep, states, root=tmp_path, quiet=True)
    assert told is not None
    own, others = (told.overrides[name] for name in ("optimizer=sgd", "optimizer=adamw"))
    assert own[:-1] == ["task=quadratic", "optimizer=sgd", "train.device=cuda:0"]
    assert others[:-1] == ["task=quadratic", "train.device=cuda:0", "optimizer=adamw"]
    assert all(words[-1].startswith("optimizer.lr=") for words in (own, others))


def test_what_is_recommended_first_is_what_every_reader_gets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {
        "sgd": {"0.03": 1.0, "0.1": 0.6, "0.3": 0.18, "1": math.nan},  # best near the edge, recommended far from it
        "adamw": {"0.001": 0.3, "0.003": 0.19, "0.01": 0.4},
    }
    points = [(name, lr, loss) for name, rates in losses.items() for lr, loss in rates.items()]
    varied = [{"optimizer": name, "optimizer.lr": lr} for name, lr, _ in points]
    jobs = tuple(
        Job(nth, tuple(f"{key}={text}" for key, text in one.items()), one, "x", float(one["optimizer.lr"]), 0)
        for nth, one in enumerate(varied, start=1)
    )
    states = [
        JobState("diverged" if math.isnan(loss) else "finished", run="gone", steps=9, planned_steps=9, final_loss=loss)
        for *_, loss in points
    ]
    told = end_with_report(tmp_path, Sweep("id", "", (), (), jobs, ""), states, root=tmp_path)
    assert told is not None
    lr = told.report.best.recommended
    said = capsys.readouterr().out
    assert said.startswith(f"recommended: optimizer=adamw optimizer.lr={lr:g} ")
    assert f"use it with: python -m runner optimizer=adamw optimizer.lr={lr:g}\n" in said
    assert "next best: optimizer=sgd optimizer.lr=0.1 " in said
    assert tags_of(told.report)["lr.override"] == f"optimizer=adamw optimizer.lr={lr:g}"
    assert metrics_of(told.report)["lr.recommended"] == lr
    write_recommendation(str(tmp_path / "page"), told, page=(), key="search.write", quiet=True)
    assert "override optimizer: adamw" in (tmp_path / "page.yaml").read_text()
    report = report_of(tmp_path)
    assert report["override"] == f"optimizer=adamw optimizer.lr={lr:g}"
    assert [group["name"] for group in report["groups"]] == ["optimizer=adamw", "optimizer=sgd"]
    words = Page((tmp_path / "lr_report.html").read_text()).words
    at = words.index("at the best rate") + 1
    table = words[at:]
    assert table[table.index("optimizer=adamw") :][:4] == ["optimizer=adamw", f"{lr:g}", "0.191", "0.19"]
    assert table[table.index("optimizer=sgd") :][:4] == ["optimizer=sgd", "0.1", "0.6", "0.18"]


def test_quiet_sweep_prints_its_directory_only(program: Program) -> None:
    done = program(*QUADRATIC, "train.duration=3", "optimizer.lr=0.01,0.02", "quiet=true")
    assert done.code == 0, done.err
    assert len(done.out.strip().splitlines()) == 1
    assert report_of(done.run)["groups"][0]["end"] in ("low", "high")


def test_report_that_cannot_be_written_is_told_and_the_runs_are_kept(program: Program, tmp_path: Path) -> None:
    (tmp_path / "there" / "lr_report.json").mkdir(parents=True)
    done = program(*QUADRATIC, "train.duration=3", "optimizer.lr=0.01,0.02", "hydra.sweep.dir=there")
    assert done.code == 1
    assert "there: cannot be written (Is a directory). Mend that, then write it with: " in done.err
    assert "Traceback" not in done.err
    (tmp_path / "there" / "lr_report.json").rmdir()
    again = program("resume.sweep=there")
    assert again.code == 0, again.err
    assert (tmp_path / "there" / "lr_report.json").is_file()


@pytest.fixture
def earlier(swept: Done, tmp_path: Path) -> Path:
    """A copy of the sweep as a program without reports has left it."""
    shutil.copytree(swept.directory / "runs", tmp_path / "runs")
    [directory] = tmp_path.glob("runs/sweeps/*")
    for name in FILES:
        (directory / name).unlink()
    return directory


def test_mode_report_writes_the_report_of_an_earlier_sweep(earlier: Path, swept: Done, program: Program) -> None:
    source = earlier.relative_to(earlier.parents[2])
    done = program("mode=report", f"source={source}")
    assert done.code == 0, done.err
    assert done.run == earlier
    assert report_of(earlier) == report_of(swept.run)
    assert json.loads((earlier / "result.json").read_text())["tags"]["lr.override"] == report_of(earlier)["override"]
    assert f"{source}/lr_report.html" in done.out.splitlines()


def test_mode_report_of_runs_that_are_gone_rests_on_what_was_written_down(
    earlier: Path, swept: Done, program: Program
) -> None:
    shutil.rmtree(earlier.parents[1] / "quadratic")
    done = program(
        "mode=report", f"source={earlier.relative_to(earlier.parents[2])}", "quiet=true", "mode.directory=out"
    )
    assert done.code == 0, done.err
    assert done.out == "out\n"
    groups, before = report_of(done.run)["groups"], report_of(swept.run)["groups"]
    assert groups[0]["rates"] == before[0]["rates"]
    assert groups[0]["initial_loss"] is None
    assert not (earlier / "lr_report.json").exists()


def test_mode_report_writes_a_page_that_trains_with_what_was_found(earlier: Path, program: Program) -> None:
    source = earlier.relative_to(earlier.parents[2])
    done = program("mode=report", f"source={source}", "mode.write=found/quadratic", "mode.full_steps=120")
    assert done.code == 0, done.err
    assert "All runs had 50% of the full length" in done.out
    page = (done.directory / "found/quadratic.yaml").read_text()
    assert page.startswith(f"# {report_of(earlier)['headline'][:40]}")
    trained = program("--config-dir", "found", "--config-name", "quadratic", "train.duration=3")
    assert trained.code == 0, trained.err
    result = json.loads((trained.run / "result.json").read_text())
    assert result["learning_rate"]["optimizer.lr"] == report_of(earlier)["groups"][0]["recommended"]
    assert result["learning_rate"]["origin"][0]["what"] == "page"
    assert result["choices"]["schedule"] == "constant"


def test_mode_report_refuses_what_is_no_sweep_over_learning_rates(program: Program, tmp_path: Path) -> None:
    done = program(*QUADRATIC, "train.duration=3", "seed=0,1")
    refused = program("mode=report", f"source={done.run.relative_to(tmp_path)}")
    assert refused.code == 2
    assert "source: must be a sweep over at least two learning rates with a run, got " in refused.err
    assert "which varies seed. Sweep optimizer.lr=1e-3,1e-2,1e-1." in refused.err
    (done.run / "sweep.json").write_text("{}")
    damaged = program("mode=report", f"source={done.run.relative_to(tmp_path)}")
    assert damaged.code == 2
    assert "source: must be the directory of a sweep with a sound sweep.json, got " in damaged.err


def test_mode_report_of_bad_settings(refuse: Callable[..., Refusal], tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    refusal = refuse("mode=report", f"source={tmp_path}", "mode.full_steps=0")
    assert refusal.code == 2
    assert "mode.full_steps: must be a number of optimizer steps >= 1, got 0." in refusal.err


def seven_groups() -> list[Observed]:
    return [
        one._replace(group=f"optimizer={name}", lr=one.lr * 2**nth, loss=one.loss * (1 + nth / 10))
        for nth, name in enumerate("abcdefg")
        for one in observe(seeds=2, fails_from=0.1 if nth % 2 else math.inf)
    ]


SITUATIONS: dict[str, list[Observed]] = {
    "five seeds": observe(seeds=5),
    "one seed at the edge": observe(seeds=1, fails_from=1e-2),
    "two points": observe(seeds=1)[2:4],
    "one point": observe(seeds=1)[2:3],
    "every run failed": observe(fails_from=0.0),
    "nothing ended": [one._replace(status="waiting", loss=math.nan) for one in observe()],
    "losses far apart": [*observe(), Observed(0.5, 0, 1e90), Observed(0.6, 0, 1e300), Observed(0.7, 0, 0.0)],
    "losses near the largest number": [one._replace(loss=one.loss * 1e308) for one in observe(seeds=2)],
    "losses below zero": [one._replace(loss=one.loss - 3) for one in observe()],
    "short runs only": observe(purpose="grid", steps=100),
    "seven groups": seven_groups(),
    "a group of which every run failed": [
        *(one._replace(group="optimizer=a") for one in observe()),
        *(one._replace(group="optimizer=b") for one in observe(fails_from=0.0)),
    ],
    "$a name_of many words": [one._replace(group="a=$x_1 " * 30) for one in observe()],
}


@pytest.mark.usefixtures("pictures")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SITUATIONS)
def test_every_situation_has_its_files(name: str, tmp_path: Path) -> None:
    from matplotlib.image import imread

    report = lr_report(SITUATIONS[name], loss="val loss", full_steps=400)
    written = write_lr_report(tmp_path, report, Commands("python -m runner <a> & b", {}, ""), title=name)
    assert [path.name for path in written] == list(FILES)
    assert Page((tmp_path / "lr_report.html").read_text()).open == []
    width = imread(tmp_path / "lr_report.png").shape[1]
    assert width == WIDTH_INCHES * DPI
    assert json.loads((tmp_path / "lr_report.json").read_text())["headline"] == headline(report)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
@pytest.mark.usefixtures("pictures")
def test_page_on_a_narrow_screen_scrolls_down_only(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    runs = [one._replace(group=f"optimizer={name * 20}", run=f"runs/{name * 60}") for name in "ab" for one in observe()]
    command = f"python -m runner {'x' * 200}"
    write_lr_report(tmp_path, lr_report(runs), Commands(command, {}, ""), title="optimizer.lr" * 9)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(f"file://{tmp_path}/lr_report.html")
        page.locator("summary").click()
        widths = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        tables = page.evaluate(
            "[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth)"
        )
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert max(widths) == 390
    assert len(tables) == 4
    assert all(wider > 0 for wider in tables)


@pytest.mark.usefixtures("pictures")
def test_picture_shows_failures_and_the_basin_where_there_are_any(tmp_path: Path) -> None:
    from matplotlib.image import imread

    def drawn(runs: list[Observed]) -> Any:
        write_lr_figure(lr_report(runs), tmp_path / "x.png", title="t", verdict="v")
        return (imread(tmp_path / "x.png")[:, :, :3] * 255).round().astype(int)

    calm, failing = drawn(observe()), drawn(observe(fails_from=0.1))
    assert count(calm, GREEN) > 1000
    assert (count(calm, RED), count(failing, RED) > 1000) == (0, True)


@pytest.mark.usefixtures("pictures")
def test_marks_of_the_page_are_named_and_quoted() -> None:
    text = lr_svg(lr_report(observe(seeds=1)), titles={"run-0": "a & <b>"})
    assert '<g id="run-0"><title>a &amp; &lt;b&gt;</title>' in text
    assert text.startswith("<svg")
    assert "<metadata>" not in text


def test_page_of_a_page_in_another_folder_inherits_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/small.yaml").write_text("defaults: [config, override task: quadratic, _self_]\nname: small\n")
    words = ["optimizer=adamw", "detector=[non_finite,too_low]", "optimizer.lr=1e-2", "+tags.a='b c'", "tracking=off"]
    evidence = ["A sentence. " * 30]
    page = ("--config-dir", "own", "--config-name", "small")
    for place in ("own/found.yaml", "some where/found.yaml"):
        command = write_found_page(Path(place), words, evidence, page=page)
        done = program(*shlex.split(command)[3:], "train.duration=3")
        assert done.code == 0, done.err
        result = json.loads((done.run / "result.json").read_text())
        assert result["experiment"] == "small"
        assert result["choices"]["optimizer"] == "adamw"
        assert result["learning_rate"]["optimizer.lr"] == 0.01
        assert result["tags"]["a"] == "b c"
    assert "too_low" in (done.run / "config.yaml").read_text()
    lines = (tmp_path / "own/found.yaml").read_text().splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert "tracking" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("x.txt", [], "search.write: must be the path of a YAML page, got '{}/x.txt'. Set search.write={}/x.yaml."),
        ("own.yaml", [], "search.write: must not be the page that was searched, got '{}/own.yaml'. Give another name."),
        (
            "x.yaml",
            ["~train.clip_norm"],
            "search.write: must be the path of a page, but a page cannot take out ~train.clip_norm. "
            "Leave search.write out and use the command line.",
        ),
    ],
)
def test_page_that_cannot_be_is_refused(path: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").touch()
    page = ("--config-dir", str(tmp_path), "--config-name", "own")
    with pytest.raises(ConfigError) as refused:
        write_found_page(tmp_path / path, overrides, [], page=page)
    assert message.replace("{}", str(tmp_path)) in str(refused.value)
    assert {file.name for file in tmp_path.iterdir()} == {"own.yaml"}


FAILED_SEARCH = {"optimizer.lr": "5", "seed": "0", "tags.purpose": "start"}


@pytest.mark.parametrize(
    ("mode", "words", "varied", "said", "again"),
    [
        (
            "search",
            ("mode=search",),
            FAILED_SEARCH,
            "search.low=0.01 search.high=0.3",
            "search.low=0.01 search.high=0.3",
        ),
        ("search", ("mode=search", "sampler=tpe"), {"optimizer.lr": "5"}, "search.low=0.01 search.high=0.3", None),
        ("sweep", ("mode=sweep", "sweep.low=5"), {"optimizer.lr": "5"}, "sweep.low=0.01 sweep.high=0.3", None),
        (
            "search",
            ("mode=search", 'search.space={optimizer.lr:"interval(5,9)",optimizer:"choice(sgd,adam)"}'),
            {"optimizer.lr": "5", "optimizer": "sgd"},
            'optimizer.lr:"interval(0.01,0.3)" in search.space',
            '\'search.space={optimizer.lr:"interval(0.01,0.3)",optimizer:"choice(sgd,adam)"}\'',
        ),
        (
            "multirun",
            ("-m", "optimizer.lr=5,9"),
            {"optimizer.lr": "5"},
            "optimizer.lr=0.01,0.03,0.1,0.3",
            None,
        ),
        (
            "multirun",
            ("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(5,9)"),
            {"optimizer.lr": "5"},
            "optimizer.lr=0.01,0.03,0.1,0.3",
            "'optimizer.lr=interval(0.01,0.3)'",
        ),
    ],
    ids=["search", "study", "grid", "space", "multirun", "sweeper"],
)
def test_lower_rates_are_asked_for_in_the_words_of_what_asked(
    mode: str,
    words: tuple[str, ...],
    varied: dict[str, str],
    said: str,
    again: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rates = {"1": 1.0, "9": 9.0}
    jobs = tuple(Job(n, (), {**varied, "optimizer.lr": text}, "x", rates[text], 0) for n, text in enumerate(rates, 1))
    command, typed = (
        shlex.join(["python", "-m", "runner", *words, "name=x y", "hydra.sweep.dir=d"]),
        tuple(w for w in words if w != "-m"),
    )
    sweep = Sweep("id", command, (), typed, jobs, "", mode)
    states = [JobState("diverged", run="gone", steps=3, planned_steps=9)] * 2
    told = end_with_report(tmp_path, sweep, states, root=tmp_path)
    assert told is not None
    assert headline(told.report).endswith(f"try lower ones: {said}")
    out = capsys.readouterr().out
    [line] = [text for text in out.splitlines() if text.startswith("try lower ones with: ")]
    assert line.startswith("try lower ones with: python -m runner ")
    assert line.endswith(again or said)
    assert "'name=x y'" in line
    assert "sweep.dir" not in line
    assert line.removeprefix("try lower ones with: ") in "\n".join(
        Page((tmp_path / "lr_report.html").read_text()).words
    )


def test_purpose_of_a_run_that_failed_before_it_had_a_directory_is_known(tmp_path: Path) -> None:
    varied = {"optimizer.lr": "0.01", "seed": "7", "tags.purpose": "verify"}
    one = observe_job(Job(1, (), varied, "quadratic", 0.01, 7), JobState("failed"), tmp_path)
    assert (one.purpose, one.run, one.group) == ("verify", "", "")
