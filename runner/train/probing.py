"""A probe: learning rates compared on copies between two steps, and the training that goes on with the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.records import Action, Alarm
from runner.remedies.branch_probe import FACTOR, LEAST_STEPS, SCORE
from runner.train.branches import Branch, Copy, Stretch, compare, duplicate, grow
from runner.train.restoring import clip_as, empty, forget_update, go_back, load_optimizer_state
from runner.train.snapshots import copied
from runner.train.state import TrainState

if TYPE_CHECKING:
    from runner.train.act import Run


def probe(state: TrainState, run: Run, is_over: Callable[[], bool]) -> bool:
    """Make the probe that is owed: compare learning rates on copies, and go on with the best.

    Nothing changes where the running one is. Between two steps a checkpoint holds everything, so that an interrupted
    probe is made again, with the same result, by the run that goes on.

    Args:
        state, run: what it works on; the action is written to the records.
        is_over: whether to break off.
    Returns:
        whether it was made; otherwise nothing has changed.
    Raises:
        CheckpointError: the initial weights cannot be read.
    """
    assert state.owed is not None
    action, alarm = state.owed
    steps = min(int(action.arguments["stretch"]), run.plan.steps - state.step)
    if steps < LEAST_STEPS:
        made = action.told(f"no probe: branches of {steps} steps say nothing", extra_steps=0)
    else:
        copy = _copied(action, run)
        branches = _grown(action, copy, steps, state, run, is_over)
        if branches is None:
            return False
        best = compare(branches, sd=action.arguments["sd"]).winner
        made = _with_scores(action, branches, steps, len(best.scores))
        made = _taken(made, alarm, best, copy, state, run)
    run.on_record(made)
    state.owed, state.actions = None, (*state.actions, made)
    return True


def _copied(action: Action, run: Run) -> Copy:
    """Return what the branches begin with."""
    copy = duplicate(Copy(run.model, run.optimizer, run.scaler, run.clipping))
    if action.arguments["from_initial"]:
        begun = run.snapshots.content(0)
        copy.model.load_state_dict(begun["model"])
        empty(copy.optimizer, run.pristine, begun["groups"])
        clip_as(copied(begun["clipping"]), copy.clipping, run.plan)
    return copy


def _grown(
    action: Action, copy: Copy, steps: int, state: TrainState, run: Run, is_over: Callable[[], bool]
) -> list[Branch] | None:
    given = action.arguments
    stretch = Stretch(
        state.step, steps, int(given["warmup"]), int(given["repeats"]), int(given["judged"]),
        on_val=bool(given["on_val"]) and "val" in run.task.examples,
    )  # fmt: skip
    factors = (1.0, *(value for name, value in given.items() if name.startswith(FACTOR)))
    return grow(
        copy, factors, run.task, run.schedules, run.plan,
        stretch=stretch, lr_scale=state.lr_scale_now * given["faster"], sd=given["sd"],
        keeps_ends=bool(given["with_branch"]), is_over=is_over,
    )  # fmt: skip


def _with_scores(action: Action, branches: Sequence[Branch], steps: int, repeats: int) -> Action:
    scores = {f"{SCORE}{branch.factor:.4g}": branch.score for branch in branches}
    compared = ", ".join(f"x {branch.factor:.3g}: {branch.score:.4g}" for branch in branches)
    text = f"losses after {repeats} x {steps:,} steps {compared}"
    return action.told(text, extra_steps=sum(branch.steps for branch in branches), **scores)


def _taken(action: Action, alarm: Alarm, best: Branch, copy: Copy, state: TrainState, run: Run) -> Action:
    """Go on with the rate of the best branch, from where the branches began or from where it ended."""
    if best.factor == 1.0:
        return action.told(f"{action.message}; the learning rate stays")
    given, before = action.arguments, state.updates_kept
    is_anew, with_branch = bool(given["from_initial"]), bool(given["with_branch"])
    if is_anew:  # averages and detectors begin anew as well
        go_back(run.snapshots.restore(0, run.model, run.average), alarm, state, run)
    else:
        forget_update(state, run)
    end = best.end or copy  # branches keep where they ended only for a run that goes on there
    run.model.load_state_dict(end.model.state_dict())
    load_optimizer_state(run.optimizer, end.optimizer.state_dict())
    clip_as(end.clipping.state_dict(), run.clipping, run.plan)
    if with_branch:
        state.updates_kept += int(best.steps / len(best.scores))
    elif is_anew and given["rewarm"]:
        state.rewarm = (state.step, int(given["rewarm"]))
    state.set_lr_scale(state.lr_scale_now * best.factor)
    where = "the winner" if with_branch else "the initial weights" if is_anew else "here"
    text = f"{action.message}; goes on from {where}, learning rate x {best.factor:.3g}"
    lost = max(before - state.updates_kept, 0)
    return action.told(text, factor=best.factor, lr_scale=state.lr_scale, rewound_steps=lost)
