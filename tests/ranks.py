"""One rank of several that train together over gloo, with the functions of the loop; light to import."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import distributed

from runner.build import build
from runner.config import Config
from runner.optim.apply import apply_schedules
from runner.tasks.protocol import Task
from runner.train.clipping import Fixed
from runner.train.step import gradients, update


class Part(NamedTuple):
    """The task as one rank sees it: its share of every micro-batch."""

    task: Task
    rank: int
    ranks: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        index, parts = part
        return self.task.batch(step, split, (self.rank * parts + index, self.ranks * parts))


def train(rank: int, ranks: int, config: Config, folder: str, clip_norm: float) -> None:
    """Train as one rank: gradients are summed over all ranks and divided by the summed weights, then clipped."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    task, model, optimizer, schedules, plan, *_ = build(config)
    scaler, part = torch.amp.GradScaler("cpu", enabled=False), Part(task, rank, ranks)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seen, pairs = 0, []
    for step in range(plan.steps):
        apply_schedules(optimizer, schedules, step)
        signals = gradients(part, model, optimizer, plan, scaler, step, Fixed())
        totals = torch.tensor([signals.weight, signals.examples], dtype=torch.float64)
        distributed.all_reduce(totals)
        weight, examples = totals.tolist()
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for grad in grads:
            grad *= signals.weight / weight
            distributed.all_reduce(grad)
        Fixed(clip_norm=clip_norm).clip(parameters, grads)
        update(optimizer, scaler, drop=False)
        seen += int(examples)
        pairs.append((seen, {group["name"]: group["lr"] for group in optimizer.param_groups}))
    if rank == 0:
        torch.save({"pairs": pairs, "weights": model.state_dict()}, f"{folder}/trained.pt")
    distributed.destroy_process_group()
