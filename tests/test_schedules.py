"""Published values of schedules and warmups, and the convention that joins them."""

import json
import math
from pathlib import Path

import pytest

from runner.schedules.cycles import one_cycle
from runner.schedules.decays import cosine, linear, step
from runner.schedules.joins import times
from runner.schedules.shape import Schedule
from runner.schedules.warmups import linear as linear_warmup
from runner.schedules.warmups import none

# computed with torch 2.13 itself, N = 100; rows that share our convention
GOLDEN = json.loads((Path(__file__).parent / "golden_schedules.json").read_text())


@pytest.mark.parametrize(
    ("row", "schedule"),
    [
        ("torch.CosineAnnealingLR(T_max=100,eta_min=0)", cosine(total_steps=100)),
        ("torch.CosineAnnealingLR(T_max=100,eta_min=0.1)", cosine(total_steps=100, floor=0.1)),
        ("torch.PolynomialLR(total=100,power=1)", linear(total_steps=100)),
        ("torch.StepLR(30,0.1)", step(every=30, gamma=0.1)),
        # torch's end value belongs to step T - 1, ours to step T: the same curve with one step less
        ("torch.OneCycleLR(1.0,total_steps=100) defaults lr", one_cycle(total_steps=99)),
    ],
)
def test_schedule_equals_the_values_of_torch(row: str, schedule: Schedule) -> None:
    expected = dict(GOLDEN["rows"])[row]
    points = [(t, value) for t, value in zip(GOLDEN["steps"], expected, strict=True) if value == value]
    assert [schedule(t) for t, _ in points] == pytest.approx([value for _, value in points], abs=1e-9)


@pytest.mark.parametrize("total", [1, 2, 3, 10, 101])
def test_one_cycle_peaks_once_and_never_rises_after_its_end(total: int) -> None:
    # torch's OneCycleLR multiplies the learning rate by 12,000 one step past its end
    values = [one_cycle(total_steps=total)(t) for t in range(total + 20)]
    assert max(values) == 1.0
    assert values.count(1.0) == 1
    peak = values.index(1.0)
    assert values[:peak] == sorted(values[:peak])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values[total:] == [pytest.approx(1 / 25e4)] * 20


def test_linear_warmup_learns_at_update_0_and_peaks_at_the_last_of_its_steps() -> None:
    warmup = linear_warmup(duration=10).factor
    assert [warmup(t) for t in range(12)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1])
    assert [linear_warmup(duration=0).factor(0), none().factor(0)] == [1.0, 1.0]


def test_warmup_and_cosine_join_at_one_peak_and_end_at_the_floor() -> None:
    # torch's CosineAnnealingLR climbs again after T_max; ours holds
    total, warmup = 100, 10
    factor = times(linear_warmup(duration=warmup).factor, cosine(total_steps=total, warmup_steps=warmup, floor=0.1))
    values = [factor(t) for t in range(total + 1)]
    assert values[warmup - 1] == 1.0
    assert values.count(1.0) == 1
    half = (warmup - 1 + total) / 2
    assert factor(math.floor(half)) > 0.55 > factor(math.ceil(half))
    assert values[total] == pytest.approx(0.1)
    assert factor(10 * total) == pytest.approx(0.1)


def test_floor_outside_0_to_1_is_refused() -> None:
    for make in (cosine, linear):
        with pytest.raises(ValueError, match="floor"):
            make(total_steps=10, floor=1.5)
