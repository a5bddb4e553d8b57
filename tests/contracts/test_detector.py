"""Every detector is silent on clean curves, keeps its state through JSON, and finds what it is for."""

import itertools
import json
import math
import random
from collections.abc import Callable

import pytest

from runner.detectors.divergence import Divergence
from runner.detectors.non_finite import NonFinite
from runner.records import Alarm, EvalRecord, StepRecord, from_json, to_json
from runner.remedies.protocol import History
from runner.watch import Watch
from tests.contracts.conftest import Make, options

Curve = Callable[[int], float]
NAMES = [
    name for name in options("detector") if name not in ("default", "probe_due")
]  # a list, and one that tells a date
PROGRESS = {"plateau", "streak"}
"""detectors that tell how a metric gets on, on every curve"""
FOUND = {
    ("catapult", "catapult"),
    ("stable heavy ball that grows sevenfold first", "catapult"),
    ("flat", "stuck_at_prior"),
}
"""(curve, detector that is for it): 2.3 is the prior entropy of the ten digits"""


def record(step: int, loss: float, grad_norm: float = 1.0, skipped: bool | None = None) -> StepRecord:
    return StepRecord(step, 0, loss, 0.1, grad_norm, 64 * step, skipped=skipped)


def noisy(curve: Curve, seed: int, sd: float) -> Curve:
    generator = random.Random(seed)
    return lambda step: curve(step) * math.exp(generator.gauss(0, sd))


CLEAN: dict[str, Curve] = {
    "falls": lambda t: 0.1 + 2 * math.exp(-t / 200),
    "flat": lambda t: 2.3,
    "to zero": lambda t: 2.3 * math.exp(-t / 50),
    "catapult": lambda t: 2.3 + 8 * math.exp(-((t - 8) ** 2) / 20) if t < 40 else 2.3 * math.exp(-t / 100),
    "edge of stability": lambda t: (0.5 + 2 * math.exp(-t / 100)) * (1 + 0.2 * (-1) ** t),
    "stable heavy ball that grows sevenfold first": lambda t: 55.5 * (1 + 6 * math.exp(-((t - 8) ** 2) / 30)) * 0.98**t,
}


@pytest.mark.parametrize("name", NAMES)
def test_detector_is_silent_on_clean_curves(make: Make, name: str) -> None:
    detector = make(f"detector=[{name}]", "train.duration=1000").watch.detectors[name]
    curves = [curve for curve in CLEAN if (curve, name) not in FOUND]
    for curve, seed in itertools.product(curves, range(5)):
        value, state = noisy(CLEAN[curve], seed, sd=0.1), detector.init()
        for step in range(1000):
            state, alarm = detector.update(state, record(step, value(step)))
            assert alarm is None, (curve, seed, alarm)
            if step % 20 == 19 and name not in PROGRESS:
                metrics = {"loss": value(step), "accuracy": 1 / (1 + value(step))}
                state, alarm = detector.update(state, EvalRecord(step + 1, 0, "val", metrics))
                assert alarm is None, (curve, seed, alarm)


@pytest.mark.parametrize(
    ("name", "curve", "severity"),
    [
        ("plateau", lambda t: 3 - t / 500, None),
        ("plateau", lambda t: 2.3, "warn"),
        ("streak", lambda t: 3 - t / 500, "info"),
        ("streak", lambda t: 2.3, "warn"),
    ],
    ids=["plateau falls", "plateau flat", "streak falls", "streak flat"],
)
@pytest.mark.parametrize("metric", ["val/loss", "train/loss"])
def test_detector_of_progress_tells_how_a_metric_gets_on(
    make: Make, name: str, curve: Curve, severity: str | None, metric: str
) -> None:
    detector = make(f"detector=[{name}]", f"detectors.{name}.metric={metric}").watch.detectors[name]
    state, found = detector.init(), set()
    for step in range(1000):
        seen: list[StepRecord | EvalRecord] = [record(step, curve(step))]
        seen += [EvalRecord(step + 1, 0, "val", {"loss": curve(step)})] if step % 20 == 19 else []
        for one in seen:
            state, alarm = detector.update(state, one)
            found |= {alarm.severity} if alarm is not None else set()
    assert found == ({severity} if severity is not None else set())


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_json_at_every_step(make: Make, name: str) -> None:
    watch = make(f"detector=[{name}]").watch
    one, other = watch.start(), watch.start()
    value = noisy(lambda t: 2 * math.exp(t / 100), seed=0, sd=0.3)
    for step in range(300):
        seen: StepRecord | EvalRecord = record(step, value(step))
        one, alarms = watch.observe(one, seen)
        other, same = watch.observe(watch.restore(json.loads(json.dumps(other))), seen)
        assert (one, alarms) == (other, same)
        if step % 5 == 4:
            seen = EvalRecord(step + 1, 0, "val", {"loss": value(step)})
            one, alarms = watch.observe(one, seen)
            other, same = watch.observe(watch.restore(json.loads(json.dumps(other))), seen)
            assert (one, alarms) == (other, same)


@pytest.mark.parametrize("name", options("remedy"))
def test_remedy_answers_a_stop_of_its_detectors_and_leaves_an_info_of_another_alone(make: Make, name: str) -> None:
    remedy = make(f"remedy=[{name}]").watch.remedies[name]
    detector = getattr(remedy, "detectors", ("y",))[0]
    asked = remedy.propose(Alarm(3, detector, "stop", {}, "m"), History(best_step=2, snapshots=(0, 1)))
    assert asked is not None
    assert (asked.step, asked.cause) == (3, (detector, 3))
    assert from_json(to_json(asked)) == asked
    assert remedy.propose(Alarm(3, "x", "info", {}, "m"), History()) is None


@pytest.mark.parametrize(
    ("loss", "grad_norm"), [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_non_finite_number_is_a_stop_at_its_step(loss: float, grad_norm: float) -> None:
    detector = NonFinite()
    _, alarm = detector.update(detector.init(), record(7, loss, grad_norm))
    assert alarm is not None
    assert (alarm.step, alarm.severity) == (7, "stop")


def test_updates_dropped_by_the_scaler_are_an_alarm_only_when_they_do_not_end() -> None:
    detector, alarms = NonFinite(skips_in_a_row=3), []
    state = detector.init()
    for step, bad in enumerate([True, True, False, True, True, True]):
        state, alarm = detector.update(
            state, record(step, 1.0, math.inf if bad else 1.0, skipped=True if bad else None)
        )
        alarms.append(alarm)
    assert [alarm.step for alarm in alarms if alarm is not None] == [5]


@pytest.mark.parametrize(
    ("curve", "latest"),
    [
        (lambda t: 2.3 * math.exp(t / 10), 45),
        (lambda t: 2 * math.exp(-t / 50) if t < 200 else 50.0, 260),
        (lambda t: 2.3 + 0.02 * t, 150),
    ],
    ids=["from the start", "late jump", "slow rise"],
)
def test_divergence_is_found_in_time(curve: Curve, latest: int) -> None:
    detector = Divergence()
    state = detector.init()
    for step in range(1000):
        state, alarm = detector.update(state, record(step, curve(step)))
        if alarm is not None:
            assert step <= latest
            return
    pytest.fail("no alarm")


def test_watch_takes_the_first_answer_in_the_order_of_the_remedies(make: Make) -> None:
    watch = make().watch
    assert isinstance(watch, Watch)
    _, alarms = watch.observe(watch.start(), record(0, math.nan))
    [(action, alarm)] = watch.decide(alarms, History())
    assert (action.type, action.remedy, action.cause) == ("Stop", "stop", ("non_finite", 0))
    assert alarm.detector == "non_finite"
    assert watch.decide((), History()) == ()
