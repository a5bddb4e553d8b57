"""Where a step makes the host wait for the GPU. Run: python experiments/step_overhead/waits.py

torch tells of every call that waits (torch.cuda.set_sync_debug_mode); the loop is that of the runner, without a record
on disk. The first steps do not count: they make the state of the optimizer, and the first look comes before an update.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runner.build import build
from runner.compose import compose_leniently
from runner.job import checked
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit

RUNNER = str(Path(__file__).resolve().parent.parent.parent / "runner")
STEPS, FIRST, EVERY = 120, 40, 20
LONG = f"train.duration={STEPS} train.eval_every=null train.checkpoint_every=null task=char_lm optimizer.lr=1e-3"
SELDOM = f"train.watch_every={EVERY}"
SIGNALS = "detector=[default,update_ratio,rms_spike,oscillation,logit_growth] monitor.signals_every"
VARIANTS = [
    "",
    SELDOM,
    f"{SELDOM} train.precision=bf16",
    f"{SELDOM} train.precision=fp16",
    f"{SELDOM} train.accumulate=2",
    f"{SELDOM} train.clip_norm=1",
    f"{SELDOM} clip=percentile",
    f"{SELDOM} clip=zclip",
    f"{SELDOM} clip=agc",
    f"{SELDOM} train.ema_decay=0.99",
    f"{SELDOM} remedy=[rollback_ladder] snapshots.every={EVERY}",
    f"{SELDOM} optimizer=sgd",
    "optimizer=muon param_groups=muon",
    f"{SIGNALS}={EVERY}",
    f"{SELDOM} {SIGNALS}={EVERY}",
    f"{SELDOM} monitor.sharpness.every={EVERY} optimizer=sgd",
    f"{SELDOM} train.precision=bf16 train.compile=true",
]
"""what is declared beside `LONG`"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    device = parser.parse_args().device
    sys.argv = sys.argv[:1]
    print(f"waits a step, beside {LONG}:\n")
    print("| declared | at a look | at other steps | where |\n|---|---|---|---|")
    for variant in VARIANTS:
        try:
            steps = waits(f"train.device={device}", *LONG.split(), *variant.split())
        except Exception as error:
            print(f"| {variant or '-'} | {type(error).__name__}: {' '.join(str(error).split())} | | |", flush=True)
            continue
        every = EVERY if SELDOM in variant else 1
        looks = [step for index, step in enumerate(steps) if index >= FIRST and (index + 1) % every == 0]
        others = [step for index, step in enumerate(steps) if index >= FIRST and (index + 1) % every]
        where = Counter(place for step in (others if any(others) else looks) for place in step)
        named = ", ".join(f"{place} x {number}" for place, number in where.most_common(4))
        print(f"| {variant or '-'} | {_mean(looks)} | {_mean(others)} | {named or '-'} |", flush=True)


def waits(*overrides: str) -> list[list[str]]:
    """Return, for every step of a run, the lines of the runner at which the host waited."""
    tree, problems, _ = compose_leniently(list(overrides))
    experiment = build(checked(tree, problems))
    steps: list[list[str]] = [[]]

    def count() -> None:  # is asked after every update but the last
        steps.append([])

    with tempfile.TemporaryDirectory() as folder, told_of_waits(experiment.plan.device, steps):
        fit(
            **experiment.parts(),
            checkpoints=Checkpoints(Path(folder)),
            on_record=lambda record: None,
            interrupted=count,
        )
    return steps[:-1]  # the last step evaluates and saves


@contextmanager
def told_of_waits(device: torch.device, steps: list[list[str]]) -> Iterator[None]:
    """Add the place of every wait to the last of the steps."""

    def told(message: Warning | str, *_: object, **__: object) -> None:
        if "synchronizing" in str(message):
            steps[-1].append(_place())

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = told
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def _place() -> str:
    """Return the line of the runner that is at work, as file:line."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(RUNNER):
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _mean(steps: list[list[str]]) -> str:
    return f"{sum(map(len, steps)) / len(steps):.2f}" if steps else "-"


if __name__ == "__main__":
    main()
