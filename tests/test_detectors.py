"""Each detector finds its sick curve within a stated number of steps, and is silent on the benign twin."""

import itertools
import math
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from runner.build import build
from runner.detectors.blow_up import BlowUp
from runner.detectors.catapult import Catapult
from runner.detectors.clip_saturation import ClipSaturation
from runner.detectors.divergence import Divergence
from runner.detectors.grad_explosion import GradExplosion
from runner.detectors.grad_vanishing import GradVanishing
from runner.detectors.late_variance import LateVariance
from runner.detectors.loss_spike import LossSpike
from runner.detectors.overfitting import Overfitting
from runner.detectors.protocol import Detector
from runner.detectors.spike_score import SpikeScore
from runner.detectors.stuck_at_prior import StuckAtPrior
from runner.detectors.too_low import TooLow
from runner.job import checked
from runner.records import Alarm, EvalRecord, StepRecord
from tests.pages import composed

STEPS = 600
EVAL_EVERY = 20


class Seen(NamedTuple):
    """What a step shows: loss, gradient norm, learning rate, whether it was clipped, val/loss where it is evaluated."""

    loss: float
    norm: float = 1.0
    lr: float = 0.1
    clipped: bool | None = None
    val: float | None = None


Curve = Callable[[int], Seen]


def records(curve: Curve, *, steps: int = STEPS) -> Iterable[StepRecord | EvalRecord]:
    for step in range(steps):
        seen = curve(step)
        yield StepRecord(step, 0, seen.loss, seen.lr, seen.norm, 64 * step, clipped=seen.clipped)
        if seen.val is not None and step % EVAL_EVERY == EVAL_EVERY - 1:
            yield EvalRecord(step + 1, 0, "val", {"loss": seen.val})


def alarms(detector: Detector, shown: Iterable[StepRecord | EvalRecord]) -> list[Alarm]:
    state, found = detector.init(), []
    for record in shown:
        state, alarm = detector.update(state, record)
        found += [alarm] if alarm is not None else []
    return found


def noise(step: int, sd: float = 0.1) -> float:
    """A factor around 1, the same for a step in every curve."""
    return math.exp(random.Random(step).gauss(0, sd))


def fall(step: int) -> float:
    return (0.2 + 2 * math.exp(-step / 100)) * noise(step)


CASES: dict[str, tuple[Detector, Curve, range, str, Curve]] = {
    "loss_spike": (
        LossSpike(),
        lambda t: Seen(fall(t) * (20 if 300 <= t < 304 else 1)), range(300, 301), "warn",
        lambda t: Seen(fall(t) * (1.3 if t == 300 else 1)),
    ),
    "spike_score": (
        SpikeScore(window=200, least=200),
        lambda t: Seen(noise(t) + (5 if t == 450 else 0)), range(450, 451), "info",
        lambda t: Seen(noise(t) + (0.5 if t == 450 else 0)),
    ),
    "catapult": (
        Catapult(),
        lambda t: Seen(fall(t) + 8 * math.exp(-((t - 12) ** 2) / 40)), range(30, 60), "info",
        lambda t: Seen(fall(t) * (1 + 0.3 * (t == 12))),
    ),
    "a rise that does not come back is no catapult": (
        Divergence(),
        lambda t: Seen(2.3 + 0.2 * t), range(20, 110), "stop",
        lambda t: Seen(fall(t) + 8 * math.exp(-((t - 12) ** 2) / 40)),
    ),
    "stuck_at_prior": (
        StuckAtPrior(begin=150, prior_entropy=3.237),
        lambda t: Seen((3.2 + math.exp(-t / 20)) * noise(t, 0.02)), range(150, 151), "warn",
        lambda t: Seen(7 - t / 50 if t < 250 else 2.0),
    ),
    "a loss that falls back to the prior": (
        StuckAtPrior(begin=150, prior_entropy=2.3),
        lambda t: Seen(fall(t) if t < 400 else 2.3), range(400, 460), "warn",
        lambda t: Seen(fall(t)),
    ),
    "grad_explosion": (
        GradExplosion(),
        lambda t: Seen(fall(t) * 1.3 ** min(max(t - 300, 0), 40), noise(t) * 1.5 ** min(max(t - 300, 0), 40)),
        range(306, 315), "warn",
        lambda t: Seen(2.3 - 2 / (1 + math.exp((300 - t) / 5)), 0.14 + 2 / (1 + math.exp((300 - t) / 5))),
    ),
    "grad_vanishing": (
        GradVanishing(),
        lambda t: Seen(2.3, noise(t) if t < 200 else 1e-5), range(299, 300), "warn",
        lambda t: Seen(2.3 * math.exp(-t / 20), math.exp(-t / 20)),
    ),
    "no gradient from the start": (
        GradVanishing(), lambda t: Seen(2.3, 0.0), range(99, 100), "warn", lambda t: Seen(2.3, 1e-3),
    ),
    "clip_saturation": (
        ClipSaturation(total_steps=STEPS, warmup_steps=30),
        lambda t: Seen(2.3, clipped=t % 3 != 0), range(159, 160), "info",
        lambda t: Seen(2.3, clipped=t < 60 or t % 3 == 0),
    ),
    "too_low": (
        TooLow(total_steps=STEPS),
        lambda t: Seen((2.3 - t / 2000) * noise(t, 0.01)), range(449, 450), "warn",
        lambda t: Seen(fall(t)),
    ),
    "too_low with a learning rate that decays": (
        TooLow(total_steps=STEPS),
        lambda t: Seen(2.3 - (t - t * t / 2 / STEPS) / 1000, lr=1 - t / STEPS), range(449, 450), "warn",
        lambda t: Seen(2.3 - t / 2000, lr=1 - t / STEPS) if t < 300 else Seen(2.15, lr=1 - t / STEPS),
    ),
    "late_variance": (
        LateVariance(total_steps=STEPS),
        lambda t: Seen(fall(t) * math.exp(math.sin(t / 15))), range(580, STEPS), "warn",
        lambda t: Seen(fall(t) * math.exp(math.sin(t / 15)), lr=0.1 * (1 - t / STEPS)),
    ),
    "noise of the batches is no late variance": (
        LateVariance(total_steps=STEPS),
        lambda t: Seen(fall(t) * math.exp(math.sin(t / 15))), range(580, STEPS), "warn",
        lambda t: Seen(fall(t) * noise(t + STEPS, 0.5)),
    ),
    "overfitting": (
        Overfitting(),
        lambda t: Seen(fall(t), val=0.5 + 2 * math.exp(-t / 60) + max(t - 200, 0) / 400), range(300, 480), "warn",
        lambda t: Seen(fall(t), val=0.5 + 2 * math.exp(-t / 60)),
    ),
    "a loss that rises on both splits is no overfitting": (
        Overfitting(),
        lambda t: Seen(fall(t), val=0.5 + 2 * math.exp(-t / 60) + max(t - 200, 0) / 400), range(300, 480), "warn",
        lambda t: Seen(fall(t) + max(t - 200, 0) / 400, val=0.5 + 2 * math.exp(-t / 60) + max(t - 200, 0) / 400),
    ),
}  # fmt: skip
"""detector, its sick curve, the steps at which the alarm may come, its severity, and a benign curve"""


@pytest.mark.parametrize("case", CASES)
def test_sick_curve_is_found_in_time_and_told_once(case: str) -> None:
    detector, sick, when, severity, _ = CASES[case]
    found = alarms(detector, records(sick))
    assert found, "no alarm"
    assert found[0].step in when
    assert found[0].severity == severity
    assert len(found) == 1 or severity == "stop"


@pytest.mark.parametrize("case", CASES)
def test_benign_twin_is_left_alone(case: str) -> None:
    detector, _, _, _, benign = CASES[case]
    assert alarms(detector, records(benign)) == []


@pytest.mark.parametrize("case", CASES)
def test_message_says_the_step_and_the_learning_rate_and_rests_on_its_evidence(case: str) -> None:
    detector, sick, _, _, _ = CASES[case]
    alarm = alarms(detector, records(sick))[0]
    assert f"step {alarm.step}" in alarm.message
    assert alarm.evidence
    assert all(math.isfinite(value) for value in alarm.evidence.values())
    if isinstance(detector, Overfitting):
        assert "a lower learning rate does not cure" in alarm.message
    else:
        assert "(lr 0." in alarm.message


@pytest.mark.parametrize(("height", "step"), [(0.5, 300), (0.5, 1000), (0.5, 3000), (1.0, 300), (1.0, 1000)])
def test_trend_does_not_hide_a_spike(height: float, step: int) -> None:
    """2 + 3 exp(-t/500) with noise of 0.05: a window of 128 with its trend gives 1.3 deviations at 300, 8.1 without."""
    found = []
    for seed in range(20):
        generator, detector = random.Random(seed), LossSpike()
        losses = [2 + 3 * math.exp(-t / 500) + generator.gauss(0, 0.05) for t in range(step - 200, step + 20)]
        losses[200] += height
        shown = [StepRecord(step - 200 + i, 0, loss, 0.1, 1.0, 0) for i, loss in enumerate(losses)]
        found.append([alarm.step for alarm in alarms(detector, shown)])
    assert found.count([step]) >= 18
    assert all(steps in ([], [step]) for steps in found)


def test_tested_value_is_not_part_of_its_window() -> None:
    """Inside a window of 32 no value can be more than 5.5 deviations from the mean."""
    detector = LossSpike(window=32, least=32)
    found = alarms(detector, records(lambda t: Seen(noise(t) * (9 if t == 100 else 1)), steps=120))
    assert [alarm.step for alarm in found] == [100]
    assert found[0].evidence["z"] > 6


def at_the_edge(step: int) -> Seen:
    """Full batch, smooth; from step 200 an oscillation grows by 5% a step and settles: healthy."""
    swing = min(1e-4 * 1.05 ** max(step - 200, 0), 0.3)
    level = 0.02 + 0.8 * math.exp(-step / 200)
    return Seen(level * (1 + swing * (-1) ** step), norm=level * (0.3 + 20 * swing), val=level)


@pytest.mark.parametrize("sd", [0.0, 0.05])
def test_edge_of_stability_sets_off_no_default_detector(sd: float) -> None:
    watch = build(checked(composed(f"train.duration={2 * STEPS}", "tracking=off"))).watch
    assert len(watch.detectors) > 10
    for name, detector in watch.detectors.items():
        shown = records(lambda t: at_the_edge(t)._replace(loss=at_the_edge(t).loss * noise(t, sd)), steps=2 * STEPS)
        assert alarms(detector, shown) == [], name


@pytest.mark.parametrize("sd", [0.1, 0.3, 0.6])
def test_long_healthy_run_with_noisy_batches_sets_off_no_default_detector(sd: float) -> None:
    steps, rng = 3000, random.Random(0)

    def seen(step: int) -> Seen:
        lr, level = 0.05 * (1 + math.cos(math.pi * step / steps)), 0.3 + 2 * math.exp(-step / 300)
        norm = rng.lognormvariate(0, sd)
        val = level * (1 + rng.gauss(0, 0.01))
        return Seen(level * rng.lognormvariate(0, sd), norm=norm, lr=lr, clipped=norm > 3, val=val)

    watch = build(checked(composed(f"train.duration={steps}", "tracking=off"))).watch
    state, loud = watch.start(), list[Alarm]()
    for record in records(seen, steps=steps):
        state, found = watch.observe(state, record)
        loud += [alarm for alarm in found if alarm.severity != "info"]
    assert loud == []


def test_norms_of_ten_times_the_median_again_and_again_are_no_explosion() -> None:
    """Batches of two: a hard example has a large loss and a large gradient, and there are many of them."""

    def seen(step: int) -> Seen:
        rng = random.Random(step)
        hard = rng.random() < 0.15
        return Seen(fall(step) + hard * rng.uniform(1, 5), norm=rng.uniform(12, 40) if hard else rng.uniform(0.5, 1.5))

    assert alarms(GradExplosion(), records(seen)) == []


@pytest.mark.parametrize(("end", "lr", "rings"), [(0.4, 0.1, True), (0.25, 0.1, False), (0.4, 0.01, False)])
def test_held_out_loss_far_above_its_lowest_at_a_held_rate_is_late_variance(
    end: float, lr: float, *, rings: bool
) -> None:
    shown = records(lambda t: Seen(fall(t), lr=lr if t > 500 else 0.1, val=0.2 if t < STEPS - 1 else end))
    found = [alarm for alarm in alarms(LateVariance(total_steps=STEPS), shown) if alarm.severity == "warn"]
    assert [alarm.step for alarm in found] == [STEPS] * rings


@pytest.mark.parametrize(("sd", "first"), [(0.2, 1.0), (0.5, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_noise_of_small_batches_is_no_divergence(sd: float, first: float) -> None:
    for seed in range(20):
        generator = random.Random(seed)
        shown = [
            StepRecord(t, 0, 2 * generator.lognormvariate(0, sd) * (first if t == 0 else 1), 0.1, 1.0, 0)
            for t in range(400)
        ]
        assert alarms(Divergence(), shown) == [], seed


def test_spikes_of_an_episode_are_one_alarm_unless_each_is_asked_for() -> None:
    def curve(step: int) -> Seen:
        return Seen(noise(step) * (8 if step in (200, 203, 250) else 1))

    assert [alarm.step for alarm in alarms(LossSpike(), records(curve))] == [200, 250]
    assert [alarm.step for alarm in alarms(LossSpike(calm_steps=0), records(curve))] == [200, 203, 250]


def test_restart_of_the_schedule_is_no_spike() -> None:
    def curve(lr: float) -> Curve:
        return lambda t: Seen(noise(t) * (2 if t >= 300 else 1), lr=lr if t < 300 else 0.1)

    assert [alarm.step for alarm in alarms(LossSpike(), records(curve(0.1)))] == [300]
    assert alarms(LossSpike(), records(curve(0.01))) == []


def test_losses_below_zero_have_spikes_too() -> None:
    found = alarms(LossSpike(), records(lambda t: Seen(-2 + 0.1 * random.Random(t).gauss(0, 1) + 3 * (t == 400))))
    assert [alarm.step for alarm in found] == [400]


def test_a_jump_that_a_large_gradient_announced_is_info_and_one_of_a_batch_a_warning() -> None:
    def curve(before: float) -> Curve:
        return lambda t: Seen(fall(t) * (20 if t == 300 else 1), norm=before if t == 299 else noise(t))

    assert [alarm.severity for alarm in alarms(LossSpike(), records(curve(1.5)))] == ["warn"]
    assert [alarm.severity for alarm in alarms(LossSpike(), records(curve(5.0)))] == ["info"]


def test_a_loss_that_climbs_with_its_gradient_blows_up_sooner_than_one_that_climbs_alone() -> None:
    def curve(norm: float) -> Curve:
        return lambda t: Seen(2.3 * 1.2 ** max(t - 5, 0), norm=norm ** max(t - 5, 0))

    together, alone = (alarms(BlowUp(), records(curve(norm), steps=40))[0].step for norm in (1.2, 1.0))
    assert together < alone


def test_a_val_loss_above_its_lowest_is_overfitting_only_where_much_of_the_gain_is_lost() -> None:
    def curve(lost: float) -> Curve:
        return lambda t: Seen(2.3 if t < 5 else 0.001, val=0.1 if t < 200 else 0.1 + lost)

    assert alarms(Overfitting(), records(curve(0.02))) == []
    assert [alarm.severity for alarm in alarms(Overfitting(), records(curve(0.2)))] == ["warn"]


def test_an_explosion_hurts_only_a_run_that_has_learned_or_is_far_above_its_start() -> None:
    def curve(level: float, loss: float) -> Curve:
        return lambda t: Seen(1.0 if t < 9 else level, norm=noise(t)) if t < 320 else Seen(loss, norm=100.0)

    assert alarms(GradExplosion(), records(curve(0.95, 1.5))) == []
    assert len(alarms(GradExplosion(), records(curve(0.5, 1.5)))) == 1
    assert len(alarms(GradExplosion(), records(curve(0.95, 5.0)))) == 1


def test_explosion_tells_the_90th_percentile_of_the_norms_before_it() -> None:
    def curve(step: int) -> Seen:
        return Seen(1.0, norm=1 + step % 10 / 10) if step < 320 else Seen(5.0, norm=100.0)

    (alarm,) = alarms(GradExplosion(), records(curve))
    assert alarm.evidence["median"] == pytest.approx(1.5, abs=0.1)
    assert alarm.evidence["p90"] == pytest.approx(1.9, abs=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_left_to_the_detector_of_them(value: float) -> None:
    detectors: list[Detector] = [case[0] for case in CASES.values()]
    for detector, bad in itertools.product(detectors, (Seen(value), Seen(1.0, norm=value), Seen(1.0, val=value))):
        assert alarms(detector, records(lambda t, bad=bad: bad if 90 < t < 110 else Seen(fall(t), val=1.0))) == []  # type: ignore[misc]


@pytest.mark.parametrize("values", [(1e308, 1e-308), (1e308, -1e308), (0.0, 1e200), (0.0, 0.0)])
def test_numbers_as_large_and_small_as_there_are_break_nothing(values: tuple[float, float]) -> None:
    for name, (detector, *_) in CASES.items():
        shown = records(lambda t: Seen(values[t % 2], norm=abs(values[t % 2]), clipped=True, val=values[t // 20 % 2]))
        for alarm in alarms(detector, shown):
            assert alarm.message, name


@pytest.mark.parametrize(
    ("overrides", "warnings"),
    [
        (["detector=[clip_saturation]"], ["detectors.clip_saturation: without train.clip_norm it is silent."]),
        (["detector=[clip_saturation]", "train.clip_norm=1"], []),
        (["detector=[overfitting]", "train.eval_every=null"], ["so detector overfitting finds nothing."]),
        (
            ["detector=[overfitting,stuck_at_prior]", "task=quadratic"],
            ["detectors.overfitting: the task has no val split", "stuck_at_prior: the task has no prior entropy"],
        ),
        (["task=quadratic"], []),
    ],
)  # fmt: skip
def test_detector_that_can_never_speak_is_a_warning_where_it_was_asked_for(
    overrides: list[str], warnings: list[str]
) -> None:
    remarks = build(checked(composed(*overrides))).remarks
    assert len(remarks) == len(warnings)
    assert all(warning in remark for warning, remark in zip(warnings, remarks, strict=True))
