"""False alarms of every detector on noise that means nothing, around a loss that falls and one that is flat.

    python experiments/instability_benchmark/noise.py [--steps 1000] [--runs 100] [--only loss_spike ...]

Loss and gradient norm of each step are the trend times independent noise of mean 1; `val/loss` is the mean of 100 such
values, 20 times a run; the learning rate is constant, and the largest 10% of the gradients are clipped. Student's t is
taken without its sign, for losses are positive. On a flat loss plateau and streak, which are about progress, are right,
and probe_due tells the time.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import quantiles
from typing import Any

import yaml

from runner.assemble import make
from runner.checks.watch import DEFAULT
from runner.detectors.protocol import Detector
from runner.durations import Clock
from runner.nodes import Node, conf_directory, option_names
from runner.records import EvalRecord, StepRecord
from runner.watch import Watch

Draw = Callable[[random.Random], float]
MEASURED = {"lr", "grad_norm", "clipped", "eval"}
PRIOR_ENTROPY = 3.2


def student(generator: random.Random, degrees: int = 3) -> float:
    """Return a value of Student's t distribution."""
    return generator.gauss(0, 1) / math.sqrt(generator.gammavariate(degrees / 2, 2) / degrees)


FAMILIES: dict[str, Draw] = {
    "gaussian": lambda g: abs(5 + g.gauss(0, 1)),
    "laplace": lambda g: abs(5 + g.expovariate(1) - g.expovariate(1)),
    "gamma(4)": lambda g: g.gammavariate(4, 1),
    "student-t(3)": lambda g: abs(5 + student(g)),
    "lognormal .5": lambda g: g.lognormvariate(0, 0.5),
    "lognormal 1": lambda g: g.lognormvariate(0, 1),
}
TRENDS: dict[str, Callable[[float], float]] = {
    "falling": lambda share: 2 + 3 * math.exp(-6 * share),
    "flat": lambda share: 2.0,
}
"""share of the run -> expected loss"""


def detectors(names: list[str], *, steps: int) -> dict[str, Detector]:
    """Make detectors as conf/detector declares them for a run of so many steps; none that needs signals."""
    made: dict[str, Any] = {}
    for name in names:
        page = yaml.safe_load((conf_directory() / "detector" / f"{name}.yaml").read_text())
        known = {"prior_entropy": PRIOR_ENTROPY, "clip_norm": 1.0, "base_lr": 0.1, "seed": 0}
        made[name] = make(f"detectors.{name}", Node.model_validate(page), Clock(64, 6400, total_steps=steps), known)
    return {name: detector for name, detector in made.items() if detector.needs <= MEASURED}


def records(draw: Draw, trend: Callable[[float], float], seed: int, *, steps: int) -> Iterator[StepRecord | EvalRecord]:
    """Yield the records of a run in which nothing is wrong."""
    generator = random.Random(seed)
    sample = [draw(generator) for _ in range(1000)]
    mean, high = math.fsum(sample) / len(sample), quantiles(sample, n=10)[-1]
    for step in range(steps):
        level, norm = trend(step / steps), draw(generator)
        yield StepRecord(step, 0, level * draw(generator) / mean, 0.1, norm / mean, 64 * step, clipped=norm > high)
        if step % max(steps // 20, 1) == steps // 20 - 1:
            value = level * math.fsum(draw(generator) for _ in range(100)) / mean / 100
            yield EvalRecord(step + 1, 0, "val", {"loss": value, "accuracy": 1 / (1 + value)})


def false_alarms(
    family: str, trend: str, names: list[str], *, steps: int, runs: int
) -> tuple[Counter[str], Counter[str]]:
    """Return detector -> alarms, and detector -> runs with an alarm."""
    alarms, alarmed = Counter[str](), Counter[str]()
    watch = Watch(detectors(names, steps=steps), {})
    for seed in range(runs):
        state, here = watch.start(), Counter[str]()
        for record in records(FAMILIES[family], TRENDS[trend], seed, steps=steps):
            state, raised = watch.observe(state, record)
            here.update(alarm.detector for alarm in raised)
        alarms += here
        alarmed.update(here.keys())
    return alarms, alarmed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps of a run")
    parser.add_argument("--runs", type=int, default=100, help="runs of each kind")
    parser.add_argument(
        "--only", nargs="+", default=[n for n in option_names("detector") if n != DEFAULT], help="detectors"
    )
    given = parser.parse_args()
    names = list(detectors(given.only, steps=given.steps))
    for trend in TRENDS:
        found = {f: false_alarms(f, trend, names, steps=given.steps, runs=given.runs) for f in FAMILIES}
        print(f"\nLoss {trend}: alarms per 1,000 steps (runs of {given.runs:,} with one), {given.steps:,} steps each\n")
        print(f"| detector | {' | '.join(FAMILIES)} |\n|{'---|' * (len(FAMILIES) + 1)}")
        for name in names:
            cells = [
                f"{1000 * alarms[name] / given.runs / given.steps:.3g} ({alarmed[name]})"
                for alarms, alarmed in found.values()
            ]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
