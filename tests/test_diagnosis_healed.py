"""A run that a remedy has healed is judged by what followed."""

import math
from dataclasses import replace

from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.diagnose import diagnose
from runner.records import Action, Alarm

CURE = Action(100, "rollback", "Rollback", {"lr_scale": 0.5, "to_step": 80}, ("divergence", 100))
LOWER = "try a learning rate ten times lower than the lowest that failed"
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


def test_what_was_measured_before_the_cure_is_not_held_against_what_followed() -> None:
    curve = run(*[0.3 + 0.4 * math.exp(-step / 60) for step in range(200)])
    saturated = {"log_z": [(99, 90.0), (150, 8.0), (250, 9.0)]}
    found, without = diagnose(replace(curve, signals=saturated)), diagnose(curve)
    assert (found.cause, found.confidence) == (without.cause, without.confidence)


def test_rate_to_try_after_a_cut_that_failed_too_is_below_the_cut_one() -> None:
    curve = run(*[0.6 * 1.1**step for step in range(100)], math.nan)
    cut = Action(100, "tenfold", "Rollback", {"lr_scale": 0.1, "to_step": 80}, ("divergence", 100))
    found = diagnose(replace(curve, actions=[cut], known=Known(lr=0.1, family="sgd", total_steps=201)))
    assert found.suggestions[0].overrides == ("optimizer.lr=0.001",)


def test_rate_to_try_after_cuts_that_left_too_little_to_judge_is_a_tenth_of_the_lowest_that_failed() -> None:
    """A run at 1e4 that was cut to 50, which blew up again 6 steps later."""
    before = [0.7, 0.9, 5.0, 40.0, 3e5, 2e9, 4e12, 0.7, 0.9, 5.0, 40.0, 3e5, 2e9, 4e12]
    losses = [*before, 0.7, 0.9, 4.0, 30.0, 1e5, math.inf]
    cuts = {"factor": 0.1, "lr_scale": 0.005, "to_step": 0}
    cure = Action(13, "heal/tenth", "Rollback", cuts, ("divergence", 13))
    alarms = [Alarm(step, "non_finite", "stop", {}, "") for step in (13, 19)]
    known = Known(lr=1e4, family="sgd", total_steps=100)
    curve = Curve(range(len(losses)), losses, alarms=alarms, actions=[cure], known=known)
    found = diagnose(curve).suggestions
    assert (found[0].overrides, found[0].why) == (("optimizer.lr=5",), LOWER)
    assert not [s for s in found if s.overrides == ("remedy=[heal]",)], "it is what has failed"
    without = diagnose(replace(curve, alarms=alarms[:1], losses=[*losses[:-1], 2e6])).suggestions
    assert without[0].overrides == ("optimizer.lr=50",), "nothing says that the last rate has failed"
