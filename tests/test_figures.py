"""The PNG of a run's curves: it exists, decodes, warns of nothing and shows what happened."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.records import Action, Alarm, EvalRecord, Record, Severity, StepRecord
from runner.report.figures import curves
from runner.report.style import DPI, WIDTH_INCHES

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("pictures")]
NAN, INF = math.nan, math.inf


def step(i: int, loss: float = 1.0, **fields: Any) -> StepRecord:
    return StepRecord(**{"step": i, "time_ms": i, "loss": loss, "lr": 0.1, "grad_norm": 1.0, "examples": i, **fields})


def evaluation(i: int, best: bool = False, split: str = "val", **metrics: float) -> EvalRecord:
    return EvalRecord(step=i, time_ms=i, split=split, metrics=metrics, best=best)


def alarm(i: int, severity: Severity, detector: str = "spike") -> Alarm:
    return Alarm(step=i, detector=detector, severity=severity, evidence={}, message="")


def falling(count: int) -> list[Record]:
    rng = random.Random(0)
    return [step(i, 0.1 + 2 * math.exp(-5 * i / count + 0.2 * rng.gauss(0, 1))) for i in range(count)]


def draw(records: list[Record], path: Path, title: str = "sgd lr=0.1", verdict: str = "finished") -> Any:
    """Draw, decode; return the pixels, an array of shape (height, width, 3) of 0..255."""
    from matplotlib.image import imread

    curves(iter(records), path, title=title, verdict=verdict)
    return (imread(path)[:, :, :3] * 255).round().astype(int)


def count(pixels: Any, color: str) -> int:
    """Return the number of pixels of exactly this colour."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return int((pixels == [red, green, blue]).all(axis=2).sum())


SITUATIONS: dict[str, list[Record]] = {
    "no record": [],
    "one step": [step(0, clipped=True)],
    "only an evaluation": [evaluation(0, loss=1.0)],
    "only an alarm": [alarm(3, "stop")],
    "an evaluation without a loss": [step(0), evaluation(1, accuracy=0.5)],
    "healthy": [
        *falling(300),
        evaluation(150, loss=0.5, accuracy=0.7),
        evaluation(300, best=True, loss=0.2, accuracy=0.9),
    ],
    "three splits": [step(0), *(evaluation(1, split=name, loss=1.0) for name in ("val", "test", "other", "more"))],
    "all gradient norms 0": [step(i, grad_norm=0.0) for i in range(50)],
    "all losses nan": [step(i, NAN, grad_norm=NAN) for i in range(50)],
    "all losses infinite": [step(i, INF, grad_norm=INF) for i in range(3)],
    "evaluations nan": [step(0), evaluation(1, loss=NAN, accuracy=NAN)],
    "constant": [step(i, 0.0) for i in range(50)],
    "negative": [step(i, -float(i)) for i in range(50)],
    "blown up": [*falling(100), *(step(100 + i, 10.0 ** (8 * i), grad_norm=10.0 ** (8 * i)) for i in range(39))],
    "down to 0": [step(i, 0.5**i if i < 90 else 0.0) for i in range(100)],
    "every magnitude": [step(i, 10.0**e, lr=10.0**e, grad_norm=10.0**e) for i, e in enumerate(range(-300, 301, 60))],
    "learning rate 0": [step(i, lr=0.0) for i in range(5)],
    "learning rate unknown": [step(i, lr=NAN) for i in range(5)],
    "groups": [step(i, lrs={"body": 0.1 / (i + 1), "head": 1e-4}) for i in range(50)],
    "groups from step 2 on": [step(0), step(1), *(step(i, lrs={"a": 0.1, "b": 0.2}) for i in range(2, 9))],
    "many groups": [step(i, lrs={f"layer.{k}": 0.1 * 0.8**k for k in range(20)}) for i in range(5)],
    "alarms at every step": [r for i in range(200) for r in (step(i), alarm(i, "warn"))],
    "many detectors": [step(0), *(alarm(i, "info", f"d{i}") for i in range(12)), Action(9, "r", "Stop")],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_is_drawn_at_the_declared_width(situation: str, tmp_path: Path) -> None:
    height, width, _ = draw(SITUATIONS[situation], tmp_path / "curves.png").shape
    assert width == WIDTH_INCHES * DPI == 1500
    assert 1250 <= height <= 1800


@settings(max_examples=10, deadline=None)
@given(values=st.lists(st.tuples(*[st.floats() | st.sampled_from([NAN, INF, -INF, 0.0, 5e-324])] * 4), max_size=8))
def test_every_float_is_drawn(values: list[tuple[float, ...]], tmp_path_factory: pytest.TempPathFactory) -> None:
    records: list[Record] = []
    for i, (loss, rate, norm, validation) in enumerate(values):
        records += [step(i, loss, lr=rate, grad_norm=norm), evaluation(i, loss=validation)]
    assert draw(records, tmp_path_factory.mktemp("any") / "curves.png").shape[1] == 1500


def test_two_hundred_thousand_steps_keep_a_spike_of_one_step(tmp_path: Path) -> None:
    records: list[Record] = [step(i, 1.0 + 0.5 * math.sin(i)) for i in range(200_000)]
    records[100_000] = step(100_000, 3.5)
    pixels = draw(records, tmp_path / "curves.png")
    high = pixels[int(0.2 * len(pixels)) : int(0.3 * len(pixels))]  # the loss panel, above the noise
    blue = (high[:, :, 2] - high[:, :, 0] > 30).any(axis=0).nonzero()[0]
    assert len(blue) > 0
    assert abs(blue.mean() - 810) < 15  # the middle of the axes, which reach from 160 to 1460


@pytest.mark.parametrize(("severity", "color"), [("info", "#56B4E9"), ("warn", "#E69F00"), ("stop", "#D55E00")])
def test_an_alarm_is_a_line_through_all_panels_in_the_colour_of_its_severity(
    severity: Severity, color: str, tmp_path: Path
) -> None:
    records = falling(100)
    without = draw(records, tmp_path / "curves.png")
    pixels = draw([*records, alarm(50, severity)], tmp_path / "curves.png")
    assert count(without, color) == 0
    assert count(pixels, color) > 0.9 * DPI * (2.7 + 1.1 + 1.3) / 2


def test_losses_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    pixels = draw([step(i, NAN if i == 7 else 1.0) for i in range(20)], tmp_path / "curves.png")
    assert count(pixels, "#D55E00") > 20


def test_the_best_evaluation_has_a_star(tmp_path: Path) -> None:
    records = falling(100)
    pixels = draw([*records, evaluation(60, best=True, loss=0.3)], tmp_path / "curves.png")
    assert count(pixels, "#009E73") > 2 * count(
        draw([*records, evaluation(60, accuracy=0.3)], tmp_path / "b.png"), "#009E73"
    )


def test_an_action_is_drawn(tmp_path: Path) -> None:
    records = falling(50)
    without = draw(records, tmp_path / "curves.png")
    assert draw([*records, Action(9, "stop", "Stop")], tmp_path / "curves.png").shape != without.shape


@pytest.mark.parametrize("text", ["", "$x_1$ and $ \\frac", "a\nb\tc", "word " * 100, "x" * 500])
def test_any_title_and_verdict_fit(text: str, tmp_path: Path) -> None:
    assert draw([step(0)], tmp_path / "curves.png", title=text, verdict=text).shape[1] == 1500


def test_the_same_records_give_the_same_file(tmp_path: Path) -> None:
    draw(falling(50), tmp_path / "a.png")
    draw(falling(50), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_else_is_left_in_the_directory(tmp_path: Path) -> None:
    draw([step(0)], tmp_path / "curves.png")
    with pytest.raises(IsADirectoryError):
        draw([step(0)], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from runner.report.figures import curves; print('matplotlib' in sys.modules);"
        "curves([], pathlib.Path(sys.argv[1]), title='', verdict=''); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "curves.png")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
