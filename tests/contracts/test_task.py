"""Every task: data is a function of the step, parts sum to the whole, the loss takes any form of the model."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.contracts.conftest import Make, options

TASKS = options("task")
SMALL = {"char_lm": ["task.width=8", "task.depth=1", "task.heads=2"]}  # what makes a task fast
BATCH = 64
STEPS = [0, 1, 7, 21, 22, 45, 3, 0]


def equal(one: object, other: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_batch_is_a_function_of_the_step_in_any_order(make: Make, name: str) -> None:
    first = [make(f"task={name}", *SMALL.get(name, [])).task.batch(step, "train") for step in STEPS]
    task = make(f"task={name}", *SMALL.get(name, [])).task
    again = [task.batch(step, "train") for step in reversed(STEPS)][::-1]
    assert all(map(equal, first, again))


@pytest.mark.parametrize("name", TASKS)
def test_an_epoch_shows_every_example_once(make: Make, name: str) -> None:
    task = make(f"task={name}", f"train.batch_size={BATCH}", *SMALL.get(name, [])).task
    if not task.examples:
        pytest.skip("no data set")
    model = task.model()
    for split, examples in task.examples.items():
        steps = -(-examples // BATCH)
        batches = [task.batch(step, split) for step in range(steps)]
        assert sum(task.loss(model, batch, task.weight(batch)).examples for batch in batches) == examples
    assert task.batch(-(-task.examples["val"] // BATCH), "val") is None


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_sum_to_the_whole(make: Make, name: str, parts: int) -> None:
    experiment = make(f"task={name}", *SMALL.get(name, []))
    task, model = experiment.task, experiment.model
    batch = task.batch(21, "train")
    weight, whole = task.weight(batch), task.loss(model, batch, task.weight(batch))
    pieces = [batch for i in range(parts) if (batch := task.batch(21, "train", (i, parts))) is not None]
    losses = [task.loss(model, batch, task.weight(batch)) for batch in pieces]
    assert sum(task.weight(batch) for batch in pieces) == weight
    assert sum(loss.total.item() for loss in losses) == pytest.approx(whole.total.item(), rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_loss_of_a_module_equals_the_loss_of_a_functional_call(make: Make, name: str) -> None:
    experiment = make(f"task={name}", *SMALL.get(name, []))
    task, model = experiment.task, experiment.model
    calls = 0

    def functional(*inputs: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        output: torch.Tensor = torch.func.functional_call(model, dict(model.named_parameters()), inputs)
        return output

    batch = task.batch(0, "train")
    weight = task.weight(batch)
    assert task.loss(functional, batch, weight).total.item() == task.loss(model, batch, weight).total.item()
    assert calls == 1


@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_those_that_the_task_announces(make: Make, name: str) -> None:
    experiment = make(f"task={name}", *SMALL.get(name, []))
    task, model = experiment.task, experiment.model
    batch = task.batch(0, "train")
    weight = task.weight(batch)
    loss = task.loss(model, batch, weight)
    scores = task.scores()
    scores.update(loss.outputs, batch)
    assert {"loss", *scores.compute(loss.total.item() / weight)} == set(task.goals)
    assert task.prior_entropy is None or task.prior_entropy > 0
