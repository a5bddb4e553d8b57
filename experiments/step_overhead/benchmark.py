"""What a step of the runner costs beside a loop written by hand, and beside other frameworks. Run: make bench

Every measurement is made in a fresh process, the contenders of a table in turn, the whole round several times;
medians are compared. Needs the extra `bench` for all rows; a framework that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOOPS = {
    "by hand, tuned": "by_hand",
    "**runner**": "ours",
    "**runner, MLflow following**": "ours_followed",
    "PyTorch with DataLoader": "with_loader",
}
FRAMEWORKS = {
    "pytorch-ignite": "ignite",
    "skorch": "skorch",
    "transformers.Trainer": "transformers",
    "Lightning": "lightning",
}
IMPORT_TORCH = "`import torch` alone"
_TIME_IMPORT = (
    "import json, time, torch; print(json.dumps({'first_step': time.time(), 'peak_mib': None, 'end_mib': None}))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the MLP; char_lm makes a tenth")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", choices=["mlp", "char_lm", "process", "pieces"], nargs="*", help="tables; all unless given"
    )
    parser.add_argument("--contender", nargs=2, metavar=("LOOP", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        loop, job = options.contender
        contend(loop, job, options.steps)
        return
    tables = options.only or ["mlp", "char_lm", "process", "pieces"]
    if "mlp" in tables:
        missing = [label for label, module in FRAMEWORKS.items() if importlib.util.find_spec(module) is None]
        if missing:
            print(f"Not installed, left out: {', '.join(missing)}. Install them with: pip install -e .[bench]\n")
        rows = LOOPS | {label: loop for label, loop in FRAMEWORKS.items() if label not in missing}
        compare("mlp", rows, options.steps, options.repeats)
    if "char_lm" in tables:
        compare("char_lm", LOOPS, max(1, options.steps // 10), options.repeats)
    if "process" in tables:
        weigh(options.repeats)
    if "pieces" in tables:
        subprocess.run([sys.executable, HERE / "pieces.py"], env=environment(), check=True)


def compare(job: str, rows: dict[str, str], steps: int, repeats: int) -> None:
    """Print what a step costs in each loop, as a table."""
    times: dict[str, list[float]] = {label: [] for label in rows}
    for _ in range(repeats):
        for label, loop in rows.items():
            times[label].append(measure(loop, job, steps)["step_seconds"] * 1e6)
            print(f"{job}  {label}  {times[label][-1]:.0f} us a step", file=sys.stderr, flush=True)
    base = statistics.median(next(iter(times.values())))
    print(f"{job}, {steps:,} steps, median of {repeats} (lowest to highest):\n")
    print(f"| {'loop':28} | us a step | range | ratio |\n|---|---|---|---|")
    for label, values in times.items():
        median = statistics.median(values)
        print(f"| {label:28} | {median:.0f} | {min(values):.0f} to {max(values):.0f} | {median / base:.2f} |")
    print(flush=True)


def weigh(repeats: int) -> None:
    """Print the time from the start of a process to its first step, and the peaks of its memory."""
    labels = [IMPORT_TORCH, *list(LOOPS)[:3]]
    told: dict[str, list[dict[str, Any]]] = {label: [] for label in labels}
    for _ in range(repeats):
        for label in labels:
            began = time.time()
            answer = (
                measure(LOOPS[label], "mlp", 1000) if label in LOOPS else _run([sys.executable, "-c", _TIME_IMPORT])
            )
            told[label].append({**answer, "start": answer["first_step"] - began})
    middle = {
        label: {name: statistics.median(answer[name] or float("nan") for answer in answers) for name in answers[0]}
        for label, answers in told.items()
    }
    base, by_hand = middle[IMPORT_TORCH]["start"], middle[next(iter(LOOPS))]["peak_mib"]
    print(f"mlp, 1,000 steps, medians of {repeats}:\n")
    print(f"| {'process':28} | s to the first step | beyond import torch | MiB in training | ratio | MiB at the end |")
    print("|---|---|---|---|---|---|")
    for label, values in middle.items():
        memory = f"{values['peak_mib']:.0f} | {values['peak_mib'] / by_hand:.2f} | {values['end_mib']:.0f}"
        start = values["start"]
        print(f"| {label:28} | {start:.2f} | {start - base:.2f} | {memory if label in LOOPS else '- | - | -'} |")
    print(flush=True)


def measure(loop: str, job: str, steps: int) -> dict[str, Any]:
    """Return what a loop in a fresh process tells of itself."""
    return _run([sys.executable, str(HERE / "benchmark.py"), "--contender", loop, job, "--steps", str(steps)])


def environment() -> dict[str, str]:
    """Return the environment of every process: this checkout, one thread, as the runner sets it."""
    path = os.pathsep.join([str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def contend(loop: str, job: str, steps: int) -> None:
    """Run one loop in this process, and print what it took as one line of JSON."""
    import loops
    import torch
    from job import peak_mib

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if hasattr(loops, loop):
        timing = getattr(loops, loop)(job, steps)
    else:
        import frameworks

        timing = getattr(frameworks, loop)(job, steps)
    print(json.dumps({**timing._asdict(), "end_mib": peak_mib()}))


if __name__ == "__main__":
    main()
