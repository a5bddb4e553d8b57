"""A run that a remedy has healed is judged by what followed."""

import math

from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.diagnose import diagnose
from runner.records import Action, Alarm

CURE = Action(100, "rollback", "Rollback", {"lr_scale": 0.5, "to_step": 80}, ("divergence", 100))
ALARM = Alarm(100, "divergence", "stop", {}, "the loss is 30 times its lowest")


def run(*after: float) -> Curve:
    before = [0.5 + 2 * math.exp(-step / 30) for step in range(95)] + [3.0, 8.0, 20.0, 40.0, 60.0, 90.0]
    losses = [*before, *after]
    return Curve(range(len(losses)), losses, alarms=[ALARM], actions=[CURE], known=Known(lr=0.4))


def test_healed_run_is_healthy_and_says_what_healed_it() -> None:
    found = diagnose(run(*[0.3 + 0.4 * math.exp(-step / 60) for step in range(200)]))
    assert found.cause == "healthy"
    assert "rollback acted at step 100" in found.summary
    assert found.suggestions[0].overrides == ("optimizer.lr=0.2",)


def test_run_that_blows_up_again_is_not_healed() -> None:
    found = diagnose(run(*[0.6 * 1.1**step for step in range(100)], math.nan))
    assert found.cause in ("lr_too_high", "lr_too_high_at_end", "unstable_early")
    assert "after it" in found.summary


def probed(**arguments: float) -> Curve:
    losses = [0.02 + 2.3 * math.exp(-step / 40) for step in range(300)]
    probe = Action(0, "probe", "Probe", arguments, ("probe_due", 0))
    return Curve(range(len(losses)), losses, actions=[probe], known=Known(lr=1.5))


def test_run_that_a_probe_has_slowed_down_says_the_rate_that_it_went_on_with() -> None:
    found = diagnose(probed(factor=0.1, lr_scale=0.1, extra_steps=60))
    assert found.cause == "healthy"
    assert "probe acted at step 0" in found.summary
    assert found.suggestions[0].overrides == ("optimizer.lr=0.15",)


def test_probe_that_left_the_rate_alone_is_no_cure() -> None:
    found = diagnose(probed(extra_steps=60))
    assert found.cause == "healthy"
    assert "probe" not in found.summary
