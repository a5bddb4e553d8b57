"""What a sweep found, by hand: groups over seeds, mean and standard deviation, the order of settings."""

import math
import random
from pathlib import Path

import pytest
from rich.console import Console

from runner.report.sweep_figure import Dot, sweep_figure
from runner.sweep_summary import Outcome, Spread, summarise
from runner.tracking.sweep_file import Job, JobState, Sweep
from runner.tracking.sweep_table import choose_rows, live_table

NAN = math.nan


def outcome(lr: str, seed: int, status: str = "finished", final: float = NAN, best: float = NAN) -> Outcome:
    return Outcome({"optimizer.lr": lr, "seed": str(seed)}, status, final, best)


@pytest.mark.parametrize(
    ("values", "mean", "sd"),
    [
        ([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 5.0, math.sqrt(32 / 7)),
        ([1.5], 1.5, NAN),
        ([], NAN, NAN),
        ([NAN, 1.0, math.inf, 3.0], 2.0, math.sqrt(2.0)),
        ([NAN], NAN, NAN),
    ],
)
def test_spread_divides_by_n_minus_one_and_leaves_out_what_is_not_finite(
    values: list[float], mean: float, sd: float
) -> None:
    assert Spread.of(values) == pytest.approx((mean, sd), nan_ok=True)


def test_jobs_are_grouped_over_their_seeds_and_only_finished_ones_count() -> None:
    [setting] = summarise(
        [outcome("0.1", 0, final=1.0, best=0.5), outcome("0.1", 1, "diverged", final=1e9), outcome("0.1", 2, "failed")]
    )
    assert setting.varied == {"optimizer.lr": "0.1"}
    assert (setting.seeds, setting.final.mean, setting.best.mean) == (3, 1.0, 0.5)
    assert math.isnan(setting.final.sd)
    assert setting.verdict == "1 finished, 1 diverged, 1 failed"


def test_settings_are_sorted_by_final_loss_with_those_that_diverged_behind() -> None:
    jobs = [
        outcome("none", 0, "diverged"),
        outcome("half", 0, final=0.1),
        outcome("half", 1, "diverged"),
        outcome("worse", 0, final=2.0),
        outcome("better", 0, final=1.0),
        outcome("waiting", 0, "waiting"),
        outcome("partly", 0, final=0.2),
        outcome("partly", 1, "waiting"),
        outcome("infinite", 0, final=0.3),
        outcome("infinite", 1, final=math.inf),
        outcome("cut", 0, "interrupted", final=0.4),
    ]
    settings = summarise(jobs)
    order = [setting.varied["optimizer.lr"] for setting in settings]
    assert order == ["better", "worse", "partly", "cut", "half", "infinite", "waiting", "none"]
    assert settings[5].verdict == "2 finished (1 with a loss that is not finite)"


def test_table_of_many_jobs_shows_the_running_the_best_and_the_latest() -> None:
    states = [JobState("finished", final_loss=float(i != 3), steps=9, planned_steps=9) for i in range(50)]
    states += [JobState("running"), JobState("running"), *[JobState()] * 30]
    shown = choose_rows(states, most=9)
    assert len(shown) == 9
    assert {3, 49, 50, 51} <= set(shown)
    assert shown == sorted(shown)
    assert choose_rows(states[:9], most=9) == list(range(9))
    jobs = tuple(Job(i + 1, (f"seed={i}",), {"seed": str(i)}, "x", 0.1, i) for i in range(len(states)))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(live_table(Sweep("id", "", (), (), jobs, "."), states, rows=9, width=100, seconds=61))
    text = capture.get()
    assert "sweep id: 50 of 82 jobs in 1:01 min" in text
    assert "50 finished, 2 running, 30 not started" in text
    assert len([line for line in text.splitlines() if "9/9" in line or "running" in line]) == 9 + 1


RATES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
SITUATIONS: dict[str, list[Dot]] = {
    "nothing": [],
    "one learning rate": [Dot("", 0.1, 1.0 + i, "finished") for i in range(3)],
    "all diverged": [Dot("sgd", lr, NAN, "diverged") for lr in RATES],
    "thirty settings": [Dot(f"s{i}", lr, i + lr, "finished") for i in range(30) for lr in RATES],
    "sixty decades": [Dot("", lr, 10.0 ** (12 * i - 30), "finished") for i, lr in enumerate(RATES)],
    "not finite though finished": [Dot("", 0.1, math.inf, "finished"), Dot("", 0.2, NAN, "finished")],
    "at the end of floats": [Dot("", lr, 1.7e308 * sign, "finished") for lr in RATES for sign in (1, 1, -1, 0)],
    "a dollar": [Dot("$a_$", 0.1, 1.0, "finished"), Dot("b" * 300, 0.1, 0.0, "failed")],
}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", SITUATIONS)
def test_picture_of_a_sweep_is_drawn_whatever_came_of_it(name: str, tmp_path: Path) -> None:
    from matplotlib.image import imread

    sweep_figure(SITUATIONS[name], tmp_path / "sweep.png", title="digits", verdict=name, loss="val loss", legend="x")
    pixels = imread(tmp_path / "sweep.png")
    assert pixels.shape[1] == 1500
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]


@pytest.mark.usefixtures("pictures")
def test_diverged_runs_are_marked_in_a_strip_at_the_top(tmp_path: Path) -> None:
    from matplotlib.image import imread

    rng = random.Random(0)
    dots = [Dot("sgd", lr, 1 + rng.random(), "finished") for lr in RATES]
    pictures = []
    for name, more in {"without": [], "with": [Dot("adam", 1.0, NAN, "diverged")]}.items():
        sweep_figure(dots + more, tmp_path / name, title="t", verdict="v", loss="loss")
        pixels = (imread(tmp_path / name, format="png")[:, :, :3] * 255).round().astype(int)
        red, green, blue = (pixels[:, :, channel] for channel in range(3))
        pictures.append(int(((red > 240) & (green < red - 5) & (blue < green)).sum()))
    assert pictures[0] == 0
    assert pictures[1] > 10_000, "the strip is shaded"


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("others", [[], [0.3, 0.5]])
def test_loss_that_no_axis_reaches_is_a_triangle_at_the_edge(others: list[float], tmp_path: Path) -> None:
    from matplotlib.image import imread

    blue = []
    for name in ("failed", "finished"):  # a failed run is not drawn
        dots = [Dot("", lr, loss, "finished") for lr, loss in zip(RATES, others, strict=False)]
        sweep_figure([*dots, Dot("", 1.0, 2e235, name)], tmp_path / name, title="t", verdict="v", loss="loss")
        pixels = (imread(tmp_path / name, format="png")[:, :, :3] * 255).round().astype(int)
        blue.append(int((abs(pixels - [0, 0x72, 0xB2]).sum(axis=2) < 8).sum()))
    assert blue[1] - blue[0] > 50


def test_losses_near_the_largest_float_have_a_mean() -> None:
    assert Spread.of([1.7e308, 1.7e308]) == (1.7e308, 0.0)
