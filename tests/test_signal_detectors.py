"""Detectors that read signals, on hand-made series: one alarm an episode, silent where a run is healthy."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner.detectors.logit_growth import LogitGrowth
from runner.detectors.oscillation import Oscillation
from runner.detectors.protocol import Detector
from runner.detectors.rms_spike import RmsSpike
from runner.detectors.update_ratio import UpdateRatio
from runner.records import Alarm, EvalRecord, StepRecord
from runner.tasks.digits import Digits
from runner.train.plan import TrainPlan
from runner.train.signals import UpdateRatios
from tests.contracts.conftest import Make, declare, make
from tests.test_signals import train

__all__ = ["declare", "make"]


def rings(detector: Detector, looks: Iterable[StepRecord]) -> list[Alarm]:
    """Return the alarms; the state goes through JSON at every look, between looks comes what is none."""
    state, found = detector.init(), []
    for look in looks:
        for record in (look, EvalRecord(look.step, 0, "val", {"loss": 1.0}), step(look.step, {}, look.loss, look.lr)):
            restored = type(state)(*map(_tuples, json.loads(json.dumps(state))))
            assert detector.update(restored, record) == detector.update(state, record)
            state, alarm = detector.update(state, record)
            found += [] if alarm is None else [alarm]
    return found


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def step(number: int, signals: Mapping[str, float], loss: float = 2.0, lr: float = 0.1) -> StepRecord:
    return StepRecord(number, 0, loss, lr, 1.0, number, signals=signals or None)


def ratios(*values: tuple[float, float, float], every: int = 100, **fixed: float) -> list[StepRecord]:
    names = ("update_ratio/max", "update_ratio/median", "update_ratio/min")
    return [step(every * n, dict(zip(names, value, strict=True)), **fixed) for n, value in enumerate(values)]


USUAL, HIGH, DEAD, DEAD_LAYER = (5e-3, 1e-3, 4e-4), (0.05, 0.01, 1e-3), (2e-6, 1e-6, 0.0), (5e-3, 1e-3, 0.0)


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        ([USUAL] * 9, []),
        ([HIGH, HIGH, USUAL, USUAL, HIGH, HIGH, USUAL], []),
        ([USUAL, USUAL, *[HIGH] * 6, USUAL, *[HIGH] * 3], ["too high", "too high"]),
        ([(0.4, 0.2, 0.1)] * 5, ["too high"]),
        ([(0.9, 0.02, 0.01), *[USUAL] * 5], []),
        ([DEAD] * 9, ["no layer learns"]),
        ([DEAD_LAYER] * 9, ["some layer does not learn"]),
    ],
    ids=["usual", "early or short", "two episodes", "far too high", "one begins at zero", "dead", "dead layer"],
)
def test_update_ratio_tells_too_high_and_dead(looks: list[tuple[float, float, float]], words: list[str]) -> None:
    alarms = rings(UpdateRatio(), ratios(*looks))
    assert [alarm.message.partition(":")[0].removeprefix("the learning rate is ") for alarm in alarms] == words
    assert {alarm.severity for alarm in alarms} <= {"warn"}


def test_update_ratio_is_not_dead_in_the_warmup_at_the_end_of_a_decay_or_when_all_is_learned() -> None:
    assert rings(UpdateRatio(warmup_steps=900), ratios(*[DEAD] * 9)) == []
    decayed = [*ratios(*[USUAL] * 3), *(look for look in ratios(*[DEAD] * 9, lr=0.04) if look.step > 300)]
    assert rings(UpdateRatio(), decayed) == []
    learned = [*ratios(*[USUAL] * 3), *(look for look in ratios(*[DEAD] * 9, loss=0.1) if look.step > 300)]
    assert rings(UpdateRatio(), learned) == []


@pytest.mark.parametrize(("multiple", "is_told"), [(1, False), (100, True)])
def test_adamw_a_hundred_times_too_fast_is_told_by_its_updates(tmp_path: Path, multiple: int, is_told: bool) -> None:
    def adamw(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=3e-3 * multiple, fused=True)

    task = Digits(batch_size=64, seed=0, hidden=(32, 32))
    warmup = [UpdateRatios(20)]
    made = train(task, TrainPlan(steps=150), warmup, make=adamw, directory=tmp_path, lr=lambda t: min(1, (t + 1) / 22))
    assert bool(rings(UpdateRatio(warmup_steps=22), made.records)) == is_told


def test_network_whose_units_never_fire_is_told(tmp_path: Path) -> None:
    class Dead(Digits):
        def model(self) -> nn.Module:
            model: Any = super().model()
            with torch.no_grad():
                model[0].bias.fill_(-1e3)  # no unit ever fires, so only the last bias learns
            return model  # type: ignore[no-any-return]

    made = train(Dead(batch_size=64, seed=0, hidden=(16,)), TrainPlan(steps=6), [UpdateRatios(1)], directory=tmp_path)
    assert [alarm.step for alarm in rings(UpdateRatio(), made.records)] == [3]


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([1.0, 1.2, 2.2] * 4, []),
        ([1.0, 5.0, 1.0, 5.0, 1.0], []),
        ([1.0, 5.0, 5.0, 5.0, 1.0, 5.0, 5.0], [2]),
        ([1.0, 5.0, 5.0, 1.0, 1.0, 5.0, 5.0], [2, 6]),
    ],
    ids=["usual", "one look", "one episode", "two episodes"],
)
def test_rms_spike_takes_two_looks_in_a_row(values: list[float], steps: list[int]) -> None:
    looks = [step(n, {"rms/max": value}) for n, value in enumerate(values)]
    assert [alarm.step for alarm in rings(RmsSpike(), looks)] == steps


def swinging(cosine: float, loss: Any, looks: int = 120) -> list[StepRecord]:
    return [step(n, {"grad_cosine": cosine if n % 3 else 0.5}, loss=loss(n)) for n in range(looks)]


@pytest.mark.parametrize(
    ("cosine", "loss", "told"),
    [
        (-0.4, lambda n: 2.0, []),
        (-0.9, lambda n: 2.0 - n / 100 + 0.1 * (-1) ** n, ["info"]),
        (-0.9, lambda n: 2.0 + n / 100, ["warn"]),
        (-0.9, lambda n: 2.0 - n / 100 if n < 60 else n / 50, ["info", "warn"]),
    ],
    ids=["not far enough", "edge of stability", "rises", "falls, then rises"],
)
def test_oscillation_is_benign_while_the_loss_falls(cosine: float, loss: Any, told: list[str]) -> None:
    assert [alarm.severity for alarm in rings(Oscillation(), swinging(cosine, loss))] == told


def test_logit_growth_rings_at_each_limit_once() -> None:
    values = [2, 40, 60, 70, 120, 300, 60, 20, 60, 200]
    looks = [step(n, {"attention_logit/max": float(v), "log_z": 5.0}) for n, v in enumerate(values)]
    assert [alarm.step for alarm in rings(LogitGrowth(), looks)] == [2, 4, 8, 9]
    looks = [step(n, {"log_z": float(v)}) for n, v in enumerate([2, 40, -60, -70, -30, -60, 20, 60])]
    assert [alarm.step for alarm in rings(LogitGrowth(), looks)] == [2, 7]
    assert "log Z of the output is -60 (limit 50)" in rings(LogitGrowth(), looks)[0].message


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["detector=[rms_spike]", "optimizer=adamw"], []),
        (["detector=[rms_spike]", "optimizer=sgd"], ["finds nothing, as SGD keeps no second moment that tells it."]),
        (["detector=[logit_growth]", "task=digits"], []),
        (
            ["detector=[logit_growth]", "task=quadratic", "train.duration=5"],
            ["neither task nor model shows its logits"],
        ),
    ],
    ids=["adamw", "sgd", "classifier", "no logits"],
)
def test_detector_whose_signal_cannot_be_measured_is_told_before_the_run(
    make: Make, overrides: list[str], says: list[str]
) -> None:
    remarks = [text for text in make(*overrides).remarks if text.startswith("detectors.")]
    assert len(remarks) == len(says)
    assert all(words in text for words, text in zip(says, remarks, strict=True))
