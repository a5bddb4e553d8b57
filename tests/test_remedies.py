"""Remedies and ladders, pure: who answers what, how often, and with which numbers."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from runner.build import build
from runner.detectors.blow_up import BlowUp
from runner.job import checked
from runner.records import Action, Alarm, EvalRecord, Severity, StepRecord, from_json, to_json
from runner.remedies.advise import Advise
from runner.remedies.branch_probe import BranchProbe
from runner.remedies.clip import Clip
from runner.remedies.ladder import Ladder, Rung
from runner.remedies.protocol import History
from runner.remedies.restart import Restart
from runner.remedies.rewarm import Rewarm
from runner.remedies.rollback import Rollback, before_the_trouble
from runner.remedies.skip_update import SkipUpdate
from runner.remedies.stop import Stop
from runner.remedies.tally import tally
from runner.watch import Watch
from tests.pages import composed


def alarm(step: int, detector: str = "divergence", severity: Severity = "stop", **evidence: float) -> Alarm:
    return Alarm(step, detector, severity, evidence, "m")


@pytest.mark.parametrize(
    ("snapshots", "lasted", "expected"),
    [
        ((0, 20, 40, 60), 1, 40),
        ((0, 20, 40, 60), 10, 20),
        ((0, 20, 40, 60), 61, 0),
        ((40,), 30, 40),
        ((0,), 0, 0),
        ((), 0, None),
    ],
    ids=["second-newest", "before it began", "older than all but one", "only one", "initial", "none"],
)
def test_a_rollback_goes_to_the_second_newest_weights_from_before_the_trouble(
    snapshots: tuple[int, ...], lasted: int, expected: int | None
) -> None:
    assert before_the_trouble(alarm(65, steps=lasted), snapshots) == expected
    action = Rollback().propose(alarm(65, steps=lasted), History(snapshots=snapshots))
    assert (None if action is None else action.arguments["to_step"]) == expected


def test_a_rollback_says_what_it_does() -> None:
    action = Rollback(rewarm=7).propose(alarm(65), History(lr_scale=0.5, snapshots=(0, 40, 60)))
    assert action is not None
    assert action.arguments == {"factor": 0.5, "lr_scale": 0.25, "to_step": 40, "rewarm_steps": 7}
    assert action.message == (
        "weights of step 40, empty optimizer state, learning rate x 0.5, now 0.25 of its schedule, rising over 7 steps"
    )


def test_a_restart_needs_the_initial_weights() -> None:
    assert Restart(factor=0.1).propose(alarm(65), History(snapshots=(20, 40))) is None
    action = Restart(factor=0.1).propose(alarm(65), History(snapshots=(0, 20, 40)))
    assert action is not None
    assert (action.type, action.arguments["to_step"], action.arguments["lr_scale"]) == ("Rollback", 0, 0.1)
    assert Restart.needs == {"initial"}


def skips(*steps: int) -> tuple[Action, ...]:
    return tuple(Action(step, "skip_update", "SkipUpdate") for step in steps)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [((), True), (skips(8, 9), True), (skips(7, 8, 9), False), (skips(6, 7, 8), True), (skips(1, 3, 5, 7), False)],
    ids=["first", "two in a row", "three in a row", "not up to now", "all used"],
)
def test_skipped_updates_are_bounded(actions: tuple[Action, ...], expected: bool) -> None:
    remedy = SkipUpdate(in_a_row=3, max_skips=4)
    assert (remedy.propose(alarm(10, "non_finite"), History(actions)) is not None) == expected


@pytest.mark.parametrize(
    ("norm", "evidence", "before", "expected"),
    [
        (None, {"p90": 2.5}, [], 2.5),
        (None, {}, [], None),
        (1.0, {"p90": 2.5}, [], 1.0),
        (None, {"p90": 2.5}, [2.0], None),
        (None, {"p90": 1.5}, [2.0], 1.5),
        (None, {"p90": 0.5}, [3.0, 2.0, 1.0], None),
        (None, {"p90": float("nan")}, [], None),
    ],
)
def test_clipping_is_only_tightened(
    norm: float | None, evidence: dict[str, float], before: Sequence[float], expected: float | None
) -> None:
    history = History(tuple(Action(1, "clip", "Clip", {"clip_norm": value}) for value in before))
    action = Clip(detectors=("grad_explosion",), norm=norm).propose(
        alarm(9, "grad_explosion", "warn", **evidence), history
    )
    assert (None if action is None else action.arguments["clip_norm"]) == expected


def test_a_warmup_by_a_remedy_is_not_begun_within_another() -> None:
    remedy = Rewarm(duration=50, max_times=2)
    first = remedy.propose(alarm(10), History())
    assert first is not None
    assert first.arguments == {"rewarm_steps": 50}
    assert remedy.propose(alarm(60), History((first,))) is None
    second = remedy.propose(alarm(61), History((first,)))
    assert second is not None
    assert remedy.propose(alarm(200), History((first, second))) is None


@pytest.mark.parametrize(
    ("seen", "is_heard"),
    [
        (alarm(60), False),
        (alarm(61), True),
        (alarm(30, "non_finite"), True),
        (alarm(30, "plateau", "warn"), True),
    ],
)
def test_while_a_remedy_warms_up_the_next_one_waits(seen: Alarm, is_heard: bool) -> None:
    watch = Watch({}, {"rewarm": Rewarm(detectors=("divergence", "non_finite"), duration=50), "stop": Stop()})
    history = History((Action(10, "rewarm", "Rewarm", {"rewarm_steps": 50}),))
    assert (watch.audible((seen,), history) == (seen,)) == is_heard
    assert watch.audible((seen,), History()) == (seen,)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (alarm(5), ("optimizer.lr=0.05",)),
        (alarm(5, "grad_explosion", "warn", p90=3.21), ("train.clip_norm=3.21",)),
        (alarm(5, "loss_spike", "warn"), ("remedy=[rollback_ladder]",)),
        (alarm(5, "stuck_at_prior", "warn"), ("optimizer.lr=0.05",)),
        (alarm(5, "catapult", "info"), None),
        (alarm(5, "overfitting", "warn"), None),
    ],
)
def test_advice_names_overrides(seen: Alarm, expected: tuple[str, ...] | None) -> None:
    action = Advise(base_lr=1.0).propose(seen, History(lr_scale=0.5))
    assert (None if action is None else action.overrides) == expected
    if action is not None:
        assert action.message == f"try {shlex.join(expected or ())}"
        assert from_json(to_json(action)) == action
        assert Advise(base_lr=1.0).propose(seen, History((action,))) is None, "once a detector"


def test_advice_does_not_keep_the_next_remedy_from_acting() -> None:
    watch = Watch({}, {"advise": Advise(base_lr=1.0), "stop": Stop()})
    found = [(action.remedy, action.type) for action, _ in watch.decide((alarm(5),), History())]
    assert found == [("advise", "Advise"), ("stop", "Stop")]


def test_a_ladder_that_rests_hears_that_its_probe_is_due() -> None:
    watch = build(checked(composed("remedy=[heal]", "train.duration=300", "tracking=off"))).watch
    history = History((Action(48, "heal/halve", "Rollback"),), snapshots=(0,))
    due, early = alarm(50, "probe_due", "info"), alarm(50, "divergence")
    assert watch.audible((due, early), history) == (due,)


def ladder(**options: Any) -> Ladder:
    rungs = {
        "halve": Rung(remedy=Rollback(detectors=("divergence", "blow_up"), max_cuts=None), attempts=2),
        "tenth": Rung(remedy=Restart(factor=0.1, max_cuts=None), attempts=1),
        "stop": Rung(remedy=Stop(), attempts=1),
    }
    return Ladder(rungs=rungs, **options)


def test_a_ladder_is_climbed_rung_by_rung_and_ends() -> None:
    watch = Watch({}, {"heal": ladder()})
    history, found = History(snapshots=(0, 20)), []
    for step in range(30, 100, 10):
        for action, _ in watch.decide((alarm(step),), history):
            history = history._replace(
                actions=(*history.actions, action), lr_scale=action.arguments.get("lr_scale", history.lr_scale)
            )
            found.append((action.remedy, action.type, round(history.lr_scale, 6)))
    assert found == [
        ("heal/halve", "Rollback", 0.5),
        ("heal/halve", "Rollback", 0.25),
        ("heal/tenth", "Rollback", 0.025),
        ("heal/stop", "Stop", 0.025),
    ]
    assert watch.keeps == {"snapshots", "initial"}


def test_two_ladders_count_their_own_attempts() -> None:
    watch = Watch({}, {"one": ladder(), "other": ladder()})
    history = History(tuple(Action(1, "one/halve", "Rollback") for _ in range(2)), snapshots=(0,))
    [(action, _)] = watch.decide((alarm(30),), history)
    assert action.remedy == "one/tenth"
    history = History((*history.actions, action, Action(1, "one/stop", "Stop")), snapshots=(0,))
    [(action, _)] = watch.decide((alarm(30),), history)
    assert action.remedy == "other/halve"


@pytest.mark.parametrize(
    ("seen", "is_heard"),
    [
        (alarm(35), False),
        (alarm(36), True),
        (alarm(31, "non_finite"), True),
        (alarm(31, "plateau", "warn"), True),
        (alarm(31, "blow_up", "warn"), False),
    ],
    ids=["rest", "after it", "urgent", "not of the ladder", "another of the ladder"],
)
def test_after_an_action_a_ladder_rests(seen: Alarm, is_heard: bool) -> None:
    watch = Watch({}, {"heal": ladder(rest=5), "stop": Stop()})
    history = History((Action(30, "heal/halve", "Rollback"),))
    assert (watch.audible((seen,), history) == (seen,)) == is_heard
    assert watch.audible((seen,), History()) == (seen,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"score_1": 0.3, "score_0.333": math.inf}, False),
        ({"score_1": math.inf, "score_0.333": math.inf}, True),
        ({"extra_steps": 0}, True),
    ],
    ids=["made", "all branches lost", "no room"],
)
def test_a_probe_is_made_again_only_when_it_has_told_nothing(arguments: dict[str, float], expected: bool) -> None:
    remedy = BranchProbe(detectors=("probe_due", "stuck_at_prior"))
    made = History((Action(1, "probe", "Probe", arguments),), snapshots=(0,))
    assert (remedy.propose(alarm(75, "stuck_at_prior"), made) is not None) == expected
    assert remedy.propose(alarm(75, "stuck_at_prior"), made._replace(snapshots=())) is None, "no initial weights"


def test_what_remedies_did_is_counted_with_what_it_cost() -> None:
    actions = [
        Action(3, "r", "Rollback", {"rewound_steps": 5}),
        Action(4, "r", "Rollback", {"rewound_steps": 2}),
        Action(5, "p", "Probe", {"extra_steps": 30}),
    ]
    assert tally(actions, steps=100, planned_steps=100) == {
        "Rollback": 2, "Probe": 1, "rewound_steps": 7, "extra_steps": 30, "compute_ratio": 1.3,
    }  # fmt: skip
    assert tally([], steps=100, planned_steps=100) == {}


def blow_ups(losses: Sequence[float], *, clipped: bool | None = None, **options: Any) -> list[int]:
    detector, found = BlowUp(**{"grace": 3, **options}), []
    state = detector.init()
    for step, loss in enumerate(losses):
        state, rung = detector.update(state, StepRecord(step, 0, loss, 0.1, 1.0, 64, clipped=clipped))
        found += [step] if rung is not None else []
    return found


@pytest.mark.parametrize(
    ("losses", "options", "expected"),
    [
        ([2.0] * 10 + [9.0] + [2.0] * 5, {}, []),
        ([2.0] * 10 + [9.0] * 9, {}, [12]),
        ([2.0] * 10 + [2.9] * 50, {}, []),
        ([2.0, 9.0, 9.0, 2.0, 2.0], {"smoothing": 0.0}, []),
        ([2.0] * 10 + [9.0] * 8, {"repeat": 2}, [12, 14, 16]),
        ([2.0] * 10 + [9.0] * 8, {"patience": 3}, [14]),
        ([2.0, *([0.01] * 60), 0.7, 0.7, 3.0, 3.0], {"smoothing": 0.0}, [63]),
        ([-2.0] * 10 + [-0.5, 0.5], {"smoothing": 0.0}, [11]),
        ([2.0] * 5 + [float("nan"), 2.0], {}, []),
    ],
    ids=["one loss", "stays", "below twice", "grace", "repeats", "patience", "margin", "negative", "nan is another's"],
)
def test_blow_up_rings_soon(losses: list[float], options: dict[str, Any], expected: list[int]) -> None:
    assert blow_ups(losses, **options) == expected


def test_blow_up_waits_ten_steps_where_every_gradient_is_clipped() -> None:
    losses = [2.0 * 0.97**step + 0.1 for step in range(100)] + [0.3 * 1.1**step for step in range(60)]
    [first, *more], [later, *_] = blow_ups(losses), blow_ups(losses, clipped=True)
    assert (later - first, more) == (10, [first + 20])


def test_blow_up_looks_at_steps_only() -> None:
    detector = BlowUp()
    state, found = detector.update(detector.init(), EvalRecord(1, 0, "val", {"loss": 100.0}))
    assert (state, found) == (detector.init(), None)
