"""The evaluations of lanes that are due at the same time, in one pass over the split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runner.lanes.forward import forward, gather, outputs_of
from runner.lanes.stack import Stack
from runner.tasks.protocol import Task
from runner.train.plan import TrainPlan


@torch.no_grad()
def evaluate(stack: Stack, tasks: Sequence[Task], due: Sequence[int], plan: TrainPlan) -> list[dict[str, float]]:
    """Return loss and metrics over the "val" split of the lanes that are due, as `train.step.evaluate` does for one.

    Args:
        stack: all lanes.
        tasks: of all lanes.
        due: indices of those that are evaluated.
        plan: device and precision.
    """
    scores = {lane: tasks[lane].scores() for lane in due}
    totals: dict[int, list[Tensor]] = {lane: [] for lane in due}
    weights = dict.fromkeys(due, 0.0)
    stack.template.eval()
    try:
        index = 0
        while found := gather([tasks[lane] for lane in due], [index] * len(due), "val", (0, 1), plan.device):
            for shared in found:
                lanes = [due[place] for place in shared.lanes]
                passed = forward(stack, tasks[lanes[0]], shared._replace(lanes=lanes), plan, with_outputs=True)
                for place, (lane, total) in enumerate(zip(lanes, passed.totals.unbind(0), strict=True)):
                    totals[lane].append(total)
                    weights[lane] += shared.weight
                    batch = outputs_of(shared.batch, place) if shared.is_stacked else shared.batch
                    scores[lane].update(outputs_of(passed.outputs, place), batch)
            index += 1
    finally:
        stack.template.train()
    losses = [
        math.fsum(torch.stack(totals[lane]).tolist()) / weights[lane] if weights[lane] else math.nan for lane in due
    ]
    return [{"loss": loss, **scores[lane].compute(loss)} for lane, loss in zip(due, losses, strict=True)]
