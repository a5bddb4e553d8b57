"""The first update of every optimizer, broken off anywhere, is undone whole and can be made again."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.build import Experiment
from runner.lanes.first_update import Before
from runner.lanes.stack import release
from runner.optim.apply import apply_schedules
from runner.train.own_average import Averager
from runner.train.seeding import seed_everything
from tests.contracts.conftest import Make, optimizers

MAKES_STATE_WHEN_BUILT = {"adagrad"}
TRIES = 6


class Room(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Has memory for so many operations."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self.made = most, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.made == self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.made += 1
        return func(*args, **(kwargs or {}))


def begun(experiment: Experiment, step: int = 0) -> Experiment:
    """Leave the gradients of a step in the parameters."""
    task, model, optimizer = experiment.task, experiment.model, experiment.optimizer
    if isinstance(optimizer, Averager):
        optimizer.train()
    apply_schedules(optimizer, experiment.schedules, step)
    optimizer.zero_grad()
    batch = task.batch(step, "train")
    task.loss(model, batch, task.weight(batch)).total.backward()  # type: ignore[no-untyped-call]
    seed_everything(step)
    return experiment


def all_of(experiment: Experiment) -> list[Any]:
    return tree_leaves([list(experiment.model.parameters()), experiment.optimizer.state_dict()])


def are_same(one: Experiment, other: Experiment) -> bool:
    pairs = list(zip(all_of(one), all_of(other), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("name", optimizers(without=MAKES_STATE_WHEN_BUILT))
def test_first_update_that_finds_no_room_is_undone_and_made_later(make: Make, name: str) -> None:
    def made() -> Experiment:
        return begun(make(f"optimizer={name}", "task.hidden=[8]", "train.batch_size=16"))

    whole, before = made(), made()
    with Room(10**9) as counted:
        whole.optimizer.step()
    begun(whole, 1).optimizer.step()
    for most in {counted.made * tried // TRIES for tried in range(TRIES)} | {counted.made - 1}:
        broken = made()
        assert not any(broken.optimizer.state.values())
        kept = Before(broken.model, broken.optimizer, None)
        with Room(most), pytest.raises(torch.OutOfMemoryError):
            broken.optimizer.step()
        kept.restore()
        assert are_same(broken, before)
        release(broken.model)  # as a lane that waits
        kept.hand_out_gradients()
        seed_everything(0)
        broken.optimizer.step()
        begun(broken, 1).optimizer.step()
        assert are_same(broken, whole)
