"""What a step of the runner costs beside the loop one would write by hand. Run: make bench

Same job for both: MLP 64-128-128-10 on digits, batch 64, fused AdamW, linear warmup + cosine, clip 1.0, one thread,
interleaved repeats, medians. Ours writes a record every step and runs the default detectors.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from runner.build import Experiment, build
from runner.compose import conf_directory, to_tree
from runner.job import checked
from runner.tasks.digits import Digits
from runner.tracking.jsonl import RecordWriter
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit

LR, WARMUP_SHARE = 3e-3, 0.05


def declared(steps: int) -> Experiment:
    overrides = [
        "optimizer=adamw", f"optimizer.lr={LR}", "train.clip_norm=1.0", f"train.duration={steps}", "train.threads=1",
        f"warmup.duration={int(WARMUP_SHARE * steps)}", "train.eval_every=null", "train.checkpoint_every=null",
    ]  # fmt: skip
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        return build(checked(to_tree(compose("config", overrides))))


def ours(experiment: Experiment) -> float:
    with tempfile.TemporaryDirectory() as folder, RecordWriter(Path(folder)) as writer:
        started = time.perf_counter()
        fit(
            experiment.task,
            experiment.model,
            experiment.optimizer,
            experiment.schedules,
            plan=experiment.plan,
            watch=experiment.watch,
            checkpoints=Checkpoints(Path(folder)),
            on_record=writer.write,
        )
        return time.perf_counter() - started


def by_hand(experiment: Experiment) -> float:
    """The hand-tuned loop: data indexed as tensors, fused AdamW, learning rate set by hand, same clipping."""
    task, steps = experiment.task, experiment.plan.steps
    assert isinstance(task, Digits)
    batches = [task.batch(step, "train") for step in range(22)]
    inputs = torch.cat([batch[0] for batch in batches if batch is not None])
    targets = torch.cat([batch[1] for batch in batches if batch is not None])
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    warmup, examples = int(WARMUP_SHARE * steps), len(targets)
    started = time.perf_counter()
    order, position, losses = torch.randperm(examples), 0, []
    for step in range(steps):
        progress = max(0.0, (step - warmup + 1) / (steps - warmup + 1))
        factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = LR * factor
        if position >= examples:
            order, position = torch.randperm(examples), 0
        index = order[position : position + 64]
        position += 64
        loss = nn.functional.cross_entropy(model(inputs[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"by hand": [], "ours": []}
    for _ in range(options.repeats):
        times["by hand"].append(by_hand(declared(options.steps)) / options.steps * 1e6)
        times["ours"].append(ours(declared(options.steps)) / options.steps * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:7.1f} us/step  ({min(times[name]):.1f} to {max(times[name]):.1f})")
    ratio = medians["ours"] / medians["by hand"]
    print(f"ratio    {ratio:7.3f}")
    print(json.dumps({"steps": options.steps, "repeats": options.repeats, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
