"""Every optimizer descends, keeps its state through a checkpoint bit for bit, and obeys parameter groups."""

import copy
import io
from typing import Any

import pytest
import torch

from runner.build import Experiment
from runner.optim.apply import apply_schedules
from runner.train.own_average import Averager
from runner.train.restoring import load_optimizer_state
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import to_device
from tests.contracts.conftest import Make, optimizers

DECLARED = ["train.duration=60", "warmup=none", "schedule=constant"]
TAKES_LR_LATE = {"rprop"}
CHOOSES_GROUPS = {"muon", "muon_rms"}


def advance(experiment: Experiment, steps: range) -> list[float]:
    """Train without the loop; return the losses."""
    task, model, optimizer = experiment.task, experiment.model, experiment.optimizer
    if isinstance(optimizer, Averager):
        optimizer.train()
    losses = []
    for step in steps:
        apply_schedules(optimizer, experiment.schedules, step)
        optimizer.zero_grad()
        batch = to_device(task.batch(step, "train"), experiment.plan.device)
        weight = task.weight(batch)
        loss = task.loss(model, batch, weight)
        (loss.total / weight).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.total.item() / weight)
    return losses


def through_a_file(content: Any) -> Any:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", optimizers())
def test_optimizer_descends_at_its_default_learning_rate(make: Make, name: str) -> None:
    declared = [*DECLARED, "task.hidden=[16]", "train.batch_size=1400"]
    losses = advance(make(f"optimizer={name}", *declared), range(60))
    assert losses[-1] < 0.997 * losses[0]


@pytest.mark.parametrize("name", optimizers())
def test_state_survives_a_checkpoint_bit_for_bit(make: Make, name: str) -> None:
    first = make(f"optimizer={name}", *DECLARED)
    advance(first, range(7))
    saved = through_a_file((first.model.state_dict(), first.optimizer.state_dict(), generator_states()))
    advance(first, range(7, 14))
    second = make(f"optimizer={name}", *DECLARED)
    second.model.load_state_dict(saved[0])
    load_optimizer_state(second.optimizer, saved[1])
    restore_generators(saved[2])
    advance(second, range(7, 14))
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", optimizers(without=TAKES_LR_LATE))
def test_learning_rate_set_by_the_schedule_is_the_one_used(make: Make, name: str) -> None:
    """A vanishing learning rate leaves the weights where they are, from the second update on (ASGD is one late)."""
    experiment = make(f"optimizer={name}", *DECLARED)
    advance(experiment, range(3))
    for group in experiment.optimizer.param_groups:
        group["initial_lr"] = 1e-30
    advance(experiment, range(3, 5))
    before = copy.deepcopy(moved_by_gradients(experiment))
    advance(experiment, range(5, 8))
    for value, earlier in zip(moved_by_gradients(experiment), before, strict=True):
        assert torch.allclose(value, earlier, atol=1e-12, rtol=0)


def moved_by_gradients(experiment: Experiment) -> list[torch.Tensor]:
    """Return the weights, or the point that alone follows the gradients where averaging moves the weights as well."""
    parameters, state = list(experiment.model.parameters()), experiment.optimizer.state
    averages = isinstance(experiment.optimizer, Averager)
    return [state[parameter]["z"] for parameter in parameters] if averages else [p.detach() for p in parameters]


@pytest.mark.parametrize("name", optimizers(without=CHOOSES_GROUPS))
def test_groups_without_decay_are_taken(make: Make, name: str) -> None:
    experiment = make(f"optimizer={name}", "param_groups=no_decay_1d", *DECLARED)
    groups = {group["name"]: group for group in experiment.optimizer.param_groups}
    assert set(groups) == {"decay", "no_decay"}
    assert groups["no_decay"]["weight_decay"] == 0.0
    claimed = sum(p.numel() for group in groups.values() for p in group["params"])
    assert claimed == sum(p.numel() for p in experiment.model.parameters())
    assert all(p.ndim <= 1 for p in groups["no_decay"]["params"])
