"""The loops by hand and the runner; each runs in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import torch
from job import CLIP_NORM, LR, LRS, Job, Place, Timing, factor, make, overrides, peak_mib, warmup_steps
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SELDOM = 20  # steps between two looks at the loss, where not every step is looked at


def by_hand(
    name: str,
    steps: int,
    place: Place = Place(),  # noqa: B008
    *,
    look_every: int = 1,
    compiles: bool = False,
) -> Timing:
    """The hand-tuned loop: data indexed as tensors, fused AdamW, learning rate set by hand, loss read every step."""
    job, device = make(name), torch.device(place.device)
    model = job.model.to(device)
    if compiles:
        torch.compiler.reset()  # as the runner does
    apply: Callable[..., Tensor] = torch.compile(model) if compiles else model
    tensors = tuple(tensor.to(device) for tensor in job.tensors)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LRS[name], fused=True)
    scaler = torch.amp.GradScaler(place.device, enabled=place.precision == "fp16")
    examples, order, position, first = len(tensors[0]), torch.empty(0), 0, 0.0
    half, started = steps // 2, time.perf_counter()
    for step in range(steps):
        if step == half:
            started = _now(device)
        for group in optimizer.param_groups:
            group["lr"] = LRS[name] * factor(step, steps)
        if position % examples == 0:
            order, position = torch.randperm(examples, device=device), 0
        index = order[position : position + job.batch_size]
        position += len(index)
        with _autocast(place):
            loss = job.loss(apply, tuple(tensor[index] for tensor in tensors))
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        if (step + 1) % look_every == 0:
            loss.item()
        first = first or time.time()
    return Timing((_now(device) - started) / (steps - half), first, peak_mib())


def by_hand_seldom(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The same, with the loss read every 20 steps."""
    return by_hand(name, steps, place, look_every=SELDOM)


def by_hand_compiled(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The same, through torch.compile."""
    return by_hand(name, steps, place, compiles=True)


def _now(device: torch.device) -> float:
    """Return the time at which the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _autocast(place: Place) -> contextlib.AbstractContextManager[object]:
    if place.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(place.device, dtype=DTYPES[place.precision])


def with_loader(name: str, steps: int) -> Timing:
    """The loop of a tutorial: DataLoader, AdamW, LambdaLR."""
    job = make(name)
    model = job.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    batches = _batches(job)
    started = time.perf_counter()
    for _ in range(steps):
        loss = job.loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        scheduler.step()
        loss.item()
    return Timing((time.perf_counter() - started) / steps)


def ours(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The runner as a shell starts it: default detectors, a record every step, terminal, evaluation at the end."""
    return _runner(name, steps, place, "tracking=off")


def ours_seldom(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The same, with a look at loss and gradient norm every 20 steps."""
    return _runner(name, steps, place, "tracking=off", f"train.watch_every={SELDOM}")


def ours_compiled(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The same as `ours`, through torch.compile."""
    return _runner(name, steps, place, "tracking=off", "train.compile=true")


def ours_followed(name: str, steps: int, place: Place = Place()) -> Timing:  # noqa: B008
    """The same, with MLflow (sqlite) following the records in its process."""
    return _runner(name, steps, place, "tracking.uri=sqlite:///mlflow.db", "tracking.wait_seconds=60")


def _runner(name: str, steps: int, place: Place, *declared: str) -> Timing:
    from runner.__main__ import main

    sys.argv = [
        "runner", *overrides(name), *declared, "optimizer=adamw", f"optimizer.lr={LRS[name]}", "schedule=cosine",
        "warmup=linear", f"warmup.duration={warmup_steps(steps)}", f"train.duration={steps}",
        f"train.clip_norm={CLIP_NORM}", "train.threads=1", "train.eval_every=null", "train.checkpoint_every=null",
        f"train.device={place.device}", f"train.precision={place.precision}", "name=bench",
    ]  # fmt: skip
    before_evaluation = _PeakBefore("torchmetrics")
    sys.meta_path.insert(0, before_evaluation)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        code = main()
        if code != 0:
            sys.exit(code)
        run = next(Path(folder).glob("runs/bench/*/"))
        with (run / "records.jsonl").open() as lines:
            made = [record["time_ms"] / 1000 for record in map(json.loads, lines) if record["kind"] == "step"]
    half = steps // 2  # from a step that is looked at to one that is: what the device still has to do is as much
    return Timing((made[-1] - made[half - 1]) / (steps - half), made[0], before_evaluation.peak_mib)


class _PeakBefore(MetaPathFinder):
    """Finds nothing, but notes the peak of memory when a module is first asked for."""

    def __init__(self, module: str) -> None:
        self.peak_mib: float | None = None
        self._module = module

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self._module:
            self.peak_mib = peak_mib()


def loader(job: Job) -> DataLoader[tuple[Tensor, ...]]:
    """Return the data as a DataLoader gives it: shuffled, from this process."""
    return DataLoader(TensorDataset(*job.tensors), batch_size=job.batch_size, shuffle=True)


def _batches(job: Job) -> Iterator[tuple[Tensor, ...]]:
    batches = loader(job)
    while True:
        yield from batches
