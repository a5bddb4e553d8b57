"""Ladders, rollbacks and probes that cannot work are refused before anything is built."""

from collections.abc import Callable

import pytest

from tests.conftest import Refusal

HEAL = "remedy=[heal]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [HEAL, *(f"~remedies.heal.rungs.{name}" for name in ("halve", "tenth", "compare", "stop"))],
            "remedies.heal.rungs: must not be empty, got {}. ",
        ),
        (
            [HEAL, "remedies.heal.rungs.halve.attempts=null"],
            "remedies.heal.rungs.halve.attempts: must be an integer >= 1, got null. ",
        ),
        (
            [HEAL, "remedies.heal.rungs.halve.attempts=0"],
            "remedies.heal.rungs.halve.attempts: must be an integer >= 1, got 0. ",
        ),
        (
            [HEAL, "remedies.heal.rungs.halve.attempts=1000000"],
            "remedies.heal.rungs.halve.attempts: must be at most 1,000, or the ladder may have no end, got 1000000. "
            "Set remedies.heal.rungs.halve.attempts=5.",
        ),
        (
            ["remedy=[rollback]", "remedies.rollback.max_cuts=null"],
            "remedies.rollback.max_cuts: must be an integer from 1 to 1,000 outside a ladder, or the remedy may have "
            "no end, got null. Set remedies.rollback.max_cuts=5.",
        ),
        (
            ["remedy=[stop]", "+remedies.rollback.max_cuts=3"],
            "remedies.rollback._target_: must be there, got nothing. Leave remedies.rollback out, or choose "
            "remedy=[rollback].",
        ),
        (
            ["remedy=[restart,stop]", "remedies.restart.max_cuts=1001"],
            "remedies.restart.max_cuts: must be an integer from 1 to 1,000 outside a ladder, or the remedy may have no "
            "end, got 1001. Set remedies.restart.max_cuts=2.",
        ),
        ([HEAL, "~remedies.heal.rungs.halve.attempts"], "remedies.heal.rungs.halve.attempts: must be given"),
        (
            [HEAL, "detector=[non_finite]", "remedies.heal.rungs.halve.remedy.detectors=[plateau]"],
            "remedies.heal.rungs.halve.remedy.detectors: must name an active detector "
            "(non_finite, probe_due, blow_up, stuck_at_prior), got ['plateau']. "
            "Set detector=[non_finite,probe_due,blow_up,stuck_at_prior,plateau], or leave the rung out.",
        ),
        (
            ["detector=[]", "remedy=[advise,rollback]"],
            "remedies.rollback.detectors: must name an active detector (none is), got ['non_finite', 'divergence']. "
            "Set detector=[non_finite,divergence], or leave the remedy out.",
        ),
        (
            [HEAL, "remedies.heal.rungs.halve.remedy.factor=1.5"],
            "remedies.heal.rungs.halve.remedy.factor: must be a finite number > 0 and < 1, got 1.5. ",
        ),
        (
            [HEAL, "remedies.heal.rest=500", "train.duration=300"],
            "remedies.heal.rest: must be shorter than the run of 300 steps, got 500. Set remedies.heal.rest=5.",
        ),
        (
            [HEAL, "train.duration=4", "remedies.heal.rungs.compare.remedy.rewarm=0"],
            "remedies.heal.rest: must be shorter than the run of 4 steps, got 5. Set remedies.heal.rest=0.",
        ),
        (
            [HEAL, "snapshots.every=1000", "train.duration=300"],
            "snapshots.every: must be shorter than the run of 300 steps, got 1000. Set snapshots.every=5%.",
        ),
        (
            [HEAL, "snapshots.every=1ep", "task=quadratic", "train.duration=300"],
            "snapshots.every: must be in steps, this task has no epochs or examples to count, got '1ep'. "
            "Set snapshots.every=20, in steps.",
        ),
        (["snapshots.keep=0"], "snapshots.keep: must be an integer >= 1, got 0. "),
        (
            ["remedy=[skip_update,stop]", "train.watch_every=4", "optimizer=adamw"],
            "train.watch_every: must be 1 with remedies.skip_update: an update that is to be dropped must not be made "
            "yet, got 4. Set train.watch_every=1.",
        ),
        (
            ["remedy=[probe,stop]", "train.duration=400", "detectors.probe_due.at=99%"],
            "detectors.probe_due.at: must leave 10 steps of the 400 for remedies.probe, got step 396. "
            "Set detectors.probe_due.at=25%, or a longer run.",
        ),
        (
            ["remedy=[probe,stop]", "remedies.probe.stretch=100%", "train.duration=400"],
            "remedies.probe.stretch: must fit into the 399 steps after probe_due at step 0, got '100%'. "
            "Set remedies.probe.stretch=10%.",
        ),
        (
            [
                HEAL,
                "remedies.heal.rungs.compare.remedy.stretch=320",
                "detectors.probe_due.at=100",
                "train.duration=400",
            ],
            "remedies.heal.rungs.compare.remedy.stretch: must fit into the 299 steps after probe_due at step 100, "
            "got 320. Set remedies.heal.rungs.compare.remedy.stretch=10%.",
        ),
        (
            ["remedy=[rollback,stop]", "remedies.rollback.rewarm=400", "train.duration=400"],
            "remedies.rollback.rewarm: must be shorter than the run of 400 steps, got 400. "
            "Set remedies.rollback.rewarm=0.",
        ),
        (
            [HEAL, "+remedies.heal.rungs.more=3"],
            "remedies.heal.rungs.more: must be a section with a remedy and attempts",
        ),
        (
            [HEAL, "remedies.heal.rungs.halve.remedy._target_=runner.remedies.rollback.Rolback"],
            "remedies.heal.rungs.halve.remedy._target_: must name something that exists",
        ),
    ],
)
def test_what_cannot_work_is_refused(refuse_row: Callable[..., Refusal], overrides: list[str], message: str) -> None:
    refused = refuse_row("tracking=off", *overrides)
    assert refused.code == 2, refused.err
    assert message in refused.err
    assert refused.left_behind == []


def test_all_problems_of_a_ladder_are_said_at_once(refuse_row: Callable[..., Refusal]) -> None:
    wrong = ["remedies.heal.rest=9999", "snapshots.every=9999", "remedies.heal.rungs.tenth.remedy.detectors=[x]"]
    refused = refuse_row("tracking=off", HEAL, *wrong)
    assert refused.err.startswith("3 problems in the configuration:"), refused.err


def test_a_mode_without_a_run_does_not_ask(refuse_row: Callable[..., Refusal]) -> None:
    """The presets themselves are right for the default run."""
    for remedy in ("heal", "rollback_ladder", "tenfold", "rollback", "probe,heal"):
        assert "problem" not in refuse_row("mode=check", f"remedy=[{remedy}]", "tracking=off").err
