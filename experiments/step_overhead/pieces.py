"""What the pieces of a step cost where they run: between training steps, with caches full of something else.

Between two steps of the loop by hand one piece is called once and timed. What counts is the mean over many steps, of
each the lowest of some rounds: work that is due every so many steps is in it, and what else the machine does is not.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable
from itertools import count, cycle
from pathlib import Path

import torch
import yaml
from job import BATCH_SIZES, CLIP_NORM
from job import make as make_job
from torch import nn

from runner.assemble import make
from runner.checks.watch import DEFAULT, default_detectors
from runner.durations import Clock
from runner.nodes import Node, conf_directory, option_names
from runner.optim.apply import Schedules, apply_schedules, keep_initial
from runner.records import StepRecord, to_json
from runner.remedies.stop import Stop
from runner.schedules.decays import cosine
from runner.schedules.joins import times
from runner.schedules.overlays import cooldown, noise
from runner.schedules.shape import Schedule
from runner.schedules.warmups import linear
from runner.tasks.digits import Digits
from runner.tasks.order import EpochOrder
from runner.tracking.jsonl import RecordWriter
from runner.train.clipping import Adaptive, Clipping, Fixed, Percentile, ZClip
from runner.train.logits import Logits
from runner.train.meters import Meter, Moment
from runner.train.plan import TrainPlan
from runner.train.sharpness import Sharpness
from runner.train.signals import GradientCosines, SecondMoments, UpdateRatios
from runner.watch import Watch

STEPS, ROUNDS, LINES = 160, 5, 500  # detectors have work to do every 16 steps


def main() -> None:
    torch.set_num_threads(1)
    job = make_job("mlp")
    model, rows = job.model, tuple(tensor[: job.batch_size] for tensor in job.tensors)
    index, numbers = torch.randperm(len(job.tensors[0]))[: job.batch_size], (torch.ones(()), torch.ones(()))
    parameters = list(model.parameters())
    groups = [{"params": parameters, "name": "all", "initial_lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        job.loss(model, rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    record = _record()
    with tempfile.TemporaryDirectory() as folder, RecordWriter(Path(folder)) as writer:
        pieces = {
            "learning rate: schedule and write": _schedule(optimizer),
            **{f"learning rate of 10 groups: {name}": piece for name, piece in _ten_groups().items()},
            "order of the data": _order(len(job.tensors[0]), job.batch_size),
            "rows: index_select": lambda: [tensor.index_select(0, index) for tensor in job.tensors],
            "rows: tensor[index]": lambda: [tensor[index] for tensor in job.tensors],
            **{f"clip: {name}": _clip(clipping, parameters) for name, clipping in _clippings().items()},
            "clip: torch.nn.utils.clip_grad_norm_": lambda: nn.utils.clip_grad_norm_(parameters, CLIP_NORM),
            "loss and gradient norm to Python": lambda: [number.item() for number in numbers],
            "detectors: all of the default list": _detectors(*default_detectors()),
            **{f"detector: {name}": _detectors(name) for name in option_names("detector") if name != DEFAULT},
            **{f"meter when it is due: {name}": meter for name, meter in _meters(model, optimizer).items()},
            "record: the object": _record,
            "record: kept until lines are written": lambda: writer.write(record),
            "record: a line of JSON, alone": lambda: to_json(record),
            f"record: a line of JSON, one of {LINES}": lambda: [to_json(record) for _ in range(LINES)],
        }
        nothing = _cost(step, lambda: None)
        print(f"What a piece costs between two training steps, mean of {STEPS}, each the lowest of {ROUNDS}:\n")
        print("| piece | us |\n|---|---|")
        for name, piece in pieces.items():
            cost = (_cost(step, piece) - nothing) / (LINES if str(LINES) in name else 1)
            print(f"| {name} | {cost:.1f} |", flush=True)


def _cost(step: Callable[[], None], piece: Callable[[], object]) -> float:
    """Return the CPU time of a piece in us, called once after each step."""
    lowest = [math.inf] * STEPS
    for _ in range(ROUNDS):
        for index in range(STEPS):
            step()
            started = time.thread_time()
            piece()
            lowest[index] = min(lowest[index], time.thread_time() - started)
    return sum(lowest) / STEPS * 1e6


def _record() -> StepRecord:
    return StepRecord(12_345, 1_700_000_000_000, 2.3 / 3, 1e-3 / 7, 1 / 3, 64 * 12_345, clipped=True)


def _body() -> Schedule:
    return times(linear(duration=100).factor, cosine(total_steps=10**6, warmup_steps=100))


def _schedule(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    schedule = _body()
    return lambda: apply_schedules(optimizer, {("all", "lr"): schedule}, 500)


def _ten_groups() -> dict[str, Callable[[], object]]:
    """Return what setting the hyperparameters of ten groups costs; every call is for the next step."""
    names = [str(index) for index in range(10)]
    weights = [nn.Parameter(torch.zeros(1)) for _ in names]
    groups = [{"params": [p], "name": n, "initial_lr": 1e-3} for p, n in zip(weights, names, strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    keep_initial(optimizer, "beta1")
    keep_initial(optimizer, "weight_decay")
    shared, others = _body(), {"beta1": _body(), "weight_decay": _body()}
    fall, shake = cooldown(begin=1000, duration=10**6), noise(seed=0, total_steps=10**6)
    own = {(name, "lr"): _body() for name in names}
    declared = {
        "one schedule": {(name, "lr"): shared for name in names},
        "one schedule, beta1 and weight decay scheduled": {
            (name, x): schedule for x, schedule in {"lr": shared, **others}.items() for name in names
        },
        "ten schedules": own,
        "ten schedules, beta1 and weight decay scheduled": {
            **own,
            **{(name, x): schedule for x, schedule in others.items() for name in names},
        },
        "ten schedules under a cooldown": {key: fall(schedule) for key, schedule in own.items()},
        "ten schedules under noise": {key: shake(schedule) for key, schedule in own.items()},
    }
    return {name: _applied(optimizer, schedules) for name, schedules in declared.items()}


def _applied(optimizer: torch.optim.Optimizer, schedules: Schedules) -> Callable[[], object]:
    step = count(500)
    return lambda: apply_schedules(optimizer, schedules, next(step))


def _clippings() -> dict[str, Clipping]:
    """Return every way to clip, past its calibration."""
    return {
        "fixed": Fixed(clip_norm=CLIP_NORM),
        "percentile": Percentile(calibration=1),
        "zclip": ZClip(warmup=2),
        "agc": Adaptive(),
    }


def _clip(clipping: Clipping, parameters: list[nn.Parameter]) -> Callable[[], object]:
    def clip() -> object:
        return clipping.clip(parameters, [p.grad for p in parameters if p.grad is not None])

    return clip


def _meters(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Callable[[], object]]:
    """Return what measuring a step costs on the MLP, and what asking a meter costs at the steps between."""
    task = Digits(batch_size=BATCH_SIZES["mlp"], seed=0)
    batch = task.batch(100, "train")
    assert batch is not None
    outputs = model(batch[0])
    moment = Moment(task, model, optimizer, TrainPlan(steps=10**6), step=100, give_outputs=lambda: outputs)

    def looked(meter: Meter) -> Callable[[], object]:
        return lambda: (meter.before(moment), meter.after(moment))

    meters: dict[str, Meter] = {
        "log Z of the logits": Logits(1),
        "update ratios": UpdateRatios(1),
        "RMS of second moments": SecondMoments(1),
        "gradient cosine": GradientCosines(1),
        "sharpness": Sharpness(every=1, batch_size=BATCH_SIZES["mlp"]),
    }
    due = {name: looked(meter) for name, meter in meters.items()}
    return {**due, "none of them, at the steps between": looked(UpdateRatios(10**6))}


def _order(examples: int, batch_size: int) -> Callable[[], object]:
    order = EpochOrder(examples, batch_size=batch_size, seed=0)
    return lambda: order.indices(3)


def _detectors(*names: str) -> Callable[[], object]:
    """Return what showing a record to detectors costs, in the part of a run where most of them are at work.

    The run has 10,000 steps, of which 6,670 to 6,830 are looked at: by then windows are full, and the detectors that
    judge the late part of a run are taking their sums.
    """
    clock, known = Clock(64, 6400, total_steps=10_000, warmup_steps=100), {"prior_entropy": 2.3, "clip_norm": CLIP_NORM}
    pages = {name: yaml.safe_load((conf_directory() / "detector" / f"{name}.yaml").read_text()) for name in names}
    parts = {name: make(f"detectors.{name}", Node.model_validate(page), clock, known) for name, page in pages.items()}
    watch = Watch(parts, {"stop": Stop()})
    begun, records = watch.start(), _noisy_records(6_670 + STEPS)
    for record in records[:-STEPS]:
        begun, _ = watch.observe(begun, record)
    state, shown = begun, cycle(records[-STEPS:])

    def observe() -> None:
        nonlocal state
        record = next(shown)
        state, _ = watch.observe(begun if record is records[-STEPS] else state, record)

    return observe


def _noisy_records(number: int) -> list[StepRecord]:
    generator = random.Random(0)
    factors = [(step, generator.lognormvariate(0, 0.3)) for step in range(number)]
    return [
        StepRecord(step, 0, (0.3 + math.exp(-step / 3000)) * noise, 1e-3, noise, 64 * step, clipped=noise > 1.5)
        for step, noise in factors
    ]


if __name__ == "__main__":
    main()
