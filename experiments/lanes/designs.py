"""Designs of pass, update and attention of many lanes, microseconds a lane: the MLP of digits, AdamW, one thread."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from runner.lanes import forward
from runner.lanes.batched import batched_operations
from runner.lanes.fused import FusedUpdate
from runner.lanes.recording import Recordings
from runner.lanes.stack import Stack
from runner.tasks.digits import Digits
from runner.train.plan import TrainPlan

TASK, PLAN, ROUNDS = Digits(batch_size=64, seed=0), TrainPlan(steps=1), 40
Work = Callable[[], object]


def passes(lanes: int) -> dict[str, Work]:
    """Forward and backward."""
    eager = {"vmap": 10**9, "batched": 10**9, "played": 1}
    stacks = {name: Stack([TASK.model() for _ in range(lanes)], Recordings(number)) for name, number in eager.items()}

    def go(name: str) -> None:
        forward.backward(stacks[name], [TASK] * lanes, [0] * lanes, PLAN, [None] * lanes)

    def plain() -> None:
        with patch.object(forward, "batched_operations", nullcontext):
            go("vmap")

    def batched() -> None:
        go("batched")

    def played() -> None:
        go("played")

    return {
        f"pass, vmap, {lanes} lanes": plain,
        f"pass, vmap with own operations, {lanes} lanes": batched,
        f"pass, recorded, {lanes} lanes": played,
    }


def alone() -> dict[str, Work]:
    model = TASK.model()
    pixels, classes = TASK.batch(0, "train") or ()

    def go() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(pixels), classes, reduction="sum").backward()  # type: ignore[no-untyped-call]

    return {"pass, alone": go}


def updates(lanes: int) -> dict[str, Work]:
    models = [TASK.model() for _ in range(lanes)]
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True) for model in models]
    kernels = [FusedUpdate(optimizer, model) for optimizer, model in zip(optimizers, models, strict=True)]
    numbers = sum(parameter.numel() for parameter in models[0].parameters())
    flat = [torch.randn(lanes, numbers) * 1e-3 for _ in range(3)] + [torch.rand(lanes, numbers)]
    rates = torch.full((lanes, 1), 1e-3)

    def by_optimizers() -> None:
        for optimizer in optimizers:
            optimizer.step()

    def by_kernels() -> None:
        for kernel in kernels:
            kernel(None)

    return {
        f"update, {lanes} optimizers": by_optimizers,
        f"update, their kernels, {lanes} lanes": by_kernels,
        f"update, stacked, tensor of rates, {lanes} lanes": lambda: stacked_adamw(
            flat[0], flat[1], flat[2], flat[3], rates
        ),
    }


def stacked_adamw(weights: Tensor, grads: Tensor, first: Tensor, second: Tensor, rates: Tensor) -> None:
    """AdamW over (lanes, numbers) with a learning rate a lane; bias corrections left out, in favour of this design."""
    weights.mul_(1 - rates * 0.01)
    first.lerp_(grads, 0.1)
    second.mul_(0.999).addcmul_(grads, grads, value=0.001)
    step = second.sqrt().add_(1e-8)
    weights.sub_(torch.div(first, step, out=step).mul_(rates))


def attentions(lanes: int) -> dict[str, Work]:
    """Causal attention of char_lm forward and backward: 32 windows of 64 characters, 4 heads of 24 numbers."""
    query, key, value = (torch.randn(lanes, 32, 4, 64, 24, requires_grad=True) for _ in range(3))
    seed = torch.randn(lanes, 32, 4, 64, 24)

    def went(made: Tensor) -> None:
        torch.autograd.grad(made, (query, key, value), seed)

    def one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def vectorised() -> None:
        went(torch.func.vmap(one)(query, key, value))

    def folded() -> None:
        many = (tensor.flatten(0, 1) for tensor in (query, key, value))
        went(one(*many).view_as(query))

    def by_math() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            vectorised()

    def folded_math() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            folded()

    def in_lanes() -> None:
        with batched_operations():
            vectorised()

    def by_lane() -> None:
        went(torch.stack([one(*each) for each in zip(query, key, value, strict=True)]))

    ways = {
        "vmap": vectorised,
        "vmap, math backend": by_math,
        "lanes in the batch, by hand": folded,
        "lanes in the batch, math backend": folded_math,
        "as lanes do it": in_lanes,
        "lane by lane": by_lane,
    }
    return {f"attention, {lanes} lanes, {name}": work for name, work in ways.items()}


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*batching rule")
    chosen = sys.argv[1:] or ["pass", "update", "attention"]
    works = {**alone(), **passes(8), **passes(16), **passes(32), **updates(16), **attentions(8), **attentions(32)}
    works = {name: work for name, work in works.items() if name.partition(",")[0] in chosen}
    best = dict.fromkeys(works, float("inf"))
    for turn in range(ROUNDS):  # in turns, as others use this machine too
        for name, work in works.items():
            lanes = next((int(word) for word in name.split() if word.isdigit()), 1)
            work()
            started = time.process_time()
            times = 1 if name.startswith("attention") else 4
            for _ in range(times):
                work()
            if turn > 3:
                best[name] = min(best[name], 1e6 * (time.process_time() - started) / times / lanes)
    for name, cost in best.items():
        print(f"{cost:6.0f}  {name}")


if __name__ == "__main__":
    main()
