"""What detectors leave out at most steps changes nothing that they say."""

from __future__ import annotations

import random

import pytest

from runner.detectors.grad_explosion import GradExplosion
from runner.detectors.loss_spike import Line, LossSpike
from runner.records import StepRecord


def _step(step: int, *, loss: float = 1.0, grad_norm: float = 1.0) -> StepRecord:
    return StepRecord(step, 0, loss, 0.1, grad_norm, 0)


@pytest.mark.parametrize(("level", "slope", "noise"), [(2.0, -0.01, 0.1), (-1e5, 0.0, 1e-3), (1e3, 5.0, 1.0)])
def test_the_line_of_loss_spike_is_that_through_the_values_of_its_chunks(
    level: float, slope: float, noise: float
) -> None:
    generator, detector = random.Random(0), LossSpike()
    values = [level + slope * step + generator.gauss(0, noise) for step in range(160)]
    state = detector.init()._replace(is_log=False)
    for step, value in enumerate(values):
        state, _ = detector.update(state, _step(step, loss=value))
        full = (step + 1) // 16
        if (step + 1) % 16 == 0 and full >= 4:
            line = Line.through([y for chunk in state.chunks for y in chunk])
            assert (state.level, state.slope) == pytest.approx((line.next, line.slope), rel=1e-6, abs=1e-6 * noise)
            assert state.limit == pytest.approx(0.7 * max(6 * line.spread, 0.1 * abs(line.next)), rel=1e-6)


def test_grad_explosion_finds_every_norm_far_above_the_median_of_its_window() -> None:
    generator, detector = random.Random(0), GradExplosion(factor=3.0)
    state, window, found, chunk = detector.init(), list[float](), 0, list[float]()
    for step in range(2000):
        norm = generator.lognormvariate(0, 0.6) * (1 + step % 300 / 100)
        state, _ = detector.update(state, _step(step, grad_norm=norm))
        is_large = len(window) >= 64 and norm > 3.0 * sorted(window)[len(window) // 2]
        is_large = is_large and sum(max(window[i : i + 16]) >= norm for i in range(0, len(window), 16)) < 2
        assert (state.marks & 1) == is_large
        found += is_large
        chunk.append(norm)
        if len(chunk) == 16:
            window, chunk = (window + chunk)[-128:], []
    assert found > 10
