"""Commands that are printed to be pasted: whatever stood in the command of the run, they compose and pass the check."""

import shlex

import pytest

from runner.commands import BROUGHT, PROGRAM, changed
from runner.job import checked
from tests.pages import composed

NO_STOP = ["optimizer.lr=30", "remedy=[rollback_ladder]", "~remedies.rollback_ladder.rungs.stop"]
COMMANDS = {
    "rollback": ["remedy=[rollback]", "remedies.rollback.max_cuts=3"],
    "two": ["remedy=[reduce_lr,stop]", "remedies.reduce_lr.detectors=[divergence]"],
    "a rung left out": NO_STOP,
    "a rung of heal": ["remedy=[heal]", "~remedies.heal.rungs.stop", "detectors.probe_due.at=50%"],
    "probe": ["remedy=[probe,stop]", "detectors.probe_due.at=10%", "detectors.divergence.patience=5"],
    "own detectors": ["detector=[non_finite]", "remedy=[heal]", "detectors.stuck_at_prior.begin=30%"],
    "schedule": ["schedule=wsd", "schedule.decay=20%", "warmup=exponential", "warmup.duration=5%"],
}
NEW = {
    "heal": ["remedy=[heal]"],
    "ladder": ["remedy=[rollback_ladder]"],
    "reduce": ["remedy=[reduce_lr,stop]"],
    "lr": ["optimizer.lr=0.1"],
    "shape": ["schedule=cosine"],
    "warmup": ["warmup=linear", "warmup.duration=10%"],
}


def after(command: list[str], overrides: list[str]) -> list[str]:
    return shlex.split(changed(shlex.join([*PROGRAM, *command]), overrides))[len(PROGRAM) :]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_printed_command_composes_and_passes_the_check(command: list[str]) -> None:
    for overrides in ([], *NEW.values()):
        checked(composed(*after(command, overrides)))


def test_what_a_remedy_that_stays_was_told_stays() -> None:
    kept = ["remedies.reduce_lr.factor=0.5", "detectors.divergence.patience=5", "remedies.stop=x"]
    command = ["remedy=[rollback,reduce_lr]", "remedies.rollback.max_cuts=3", *kept]
    assert after(command, ["remedy=[reduce_lr,stop]"]) == [*kept, "remedy=[reduce_lr,stop]"]


def test_detectors_of_an_option_stay_where_the_command_names_them() -> None:
    command = ["detector=[default,probe_due]", "remedy=[probe]", "detectors.probe_due.at=10%"]
    assert after(command, ["remedy=[stop]"]) == [command[0], command[2], "remedy=[stop]"]


def test_the_detectors_that_remedies_bring_are_those_of_their_pages() -> None:
    for remedy in ("stop", *BROUGHT):
        found = composed("detector=[]", f"remedy=[{remedy}]")["detectors"]
        assert list(found) == list(BROUGHT.get(remedy, ())), remedy
