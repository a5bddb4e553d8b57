"""What a report advises to do next is a command that the program accepts, whatever asked for the runs."""

import re
import shlex

import pytest

from runner.finding.observed import Observed
from runner.finding.phrases import add_rates, add_seeds, extend
from runner.finding.report import lr_report
from tests.conftest import Program
from tests.test_lr_report import report_of

# what asked, the command with rates that break down, and with such that do not
ASKED = {
    "multirun": (("-m",), "optimizer.lr=1e80,1e81", "optimizer.lr=0.1,0.2"),
    "sweeper": (
        ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "seed=0"),
        "optimizer.lr=interval(1e80,1e81)",
        "optimizer.lr=interval(0.1,0.2)",
    ),
    "sweep": (("mode=sweep",), "sweep.low=1e80 sweep.high=1e81", "sweep.low=0.1 sweep.high=0.2"),
    "sweep.space": (
        ("mode=sweep",),
        "sweep.space={optimizer.lr:[1e80,1e81],seed:[0,1]}",
        "sweep.space={optimizer.lr:[0.1,0.2],seed:[0,1]}",
    ),
    "search": (
        ("mode=search", "search.verify=0"),
        "search.low=1e80 search.high=1e81",
        "search.budget=4 search.low=0.1 search.high=0.2",
    ),
    "study": (
        ("mode=search", "sampler=random", "search.n_trials=2"),
        "search.low=1e80 search.high=1e81",
        "search.low=0.1 search.high=0.2",
    ),
    "search.space": (
        ("mode=search", "sampler=random", "search.n_trials=2"),
        'search.space={optimizer.lr:"interval(1e80,1e81)",optimizer.momentum:"choice(0,0.9)"}',
        'search.space={optimizer.lr:"interval(0.1,0.2)",optimizer.momentum:"choice(0,0.9)"}',
    ),
    "search.choice": (
        ("mode=search", "sampler=grid", "search.n_trials=4"),
        "search.space={optimizer.lr:[1e80,1e81],optimizer.momentum:[0,0.9]}",
        "search.space={optimizer.lr:[0.1,0.2],optimizer.momentum:[0,0.9]}",
    ),
}
QUICK = ("sweep.space",)
BASE = (
    "task=quadratic",
    "sweep.backend=sequential",
    "optimizer.momentum=0",
    "train.duration=4",
    "warmup=none",
    "schedule=constant",
)


def words_of(advice: str, made: list[str], directory: str, use: str) -> list[str]:
    """Return the command line that does what is advised, of that which made a sweep or uses what it found."""
    if "resume.sweep" in advice:
        key = advice.rpartition(" ")[2]
        more = {"search.n_trials": "3", "search.budget": "5"}[key]
        return [f"resume.sweep={directory}", f"{key}={more}"]
    if " in the place of " in advice:
        advice, _, gone = advice.partition(" in the place of ")
        made = [word for word in made if word.partition("=")[0] not in re.split(", | and ", gone)]
    if advice == "add -m and seed=0,1,2 to the line that uses it":
        return ["-m", *shlex.split(use)[3:], "seed=0,1,2"]
    if (inside := re.search(r"(\S+):(\".*\") in (\w+\.space)", advice)) is not None:
        key, text, space = inside.groups()
        [given] = [word for word in made if word.startswith(f"{space}=")]
        new = re.sub(re.escape(key) + r':(\[.*?\]|".*?")', lambda _: f"{key}:{text}", given)
        assert new != given
        made, advice = [*(word for word in made if word != given), new], advice.replace(inside.group(), "")
    more_words = [word for word in shlex.split(advice.replace("<this directory>", directory)) if "=" in word]
    return [*made, *more_words]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ASKED]
)
def test_what_is_advised_is_accepted(name: str, program: Program) -> None:
    words, failing, sound = ASKED[name]
    made = [*BASE, *words, *(shlex.split(sound) if "space" not in sound else [sound])]
    done = program(*made)
    assert done.code == 0, done.err
    found = report_of(done.run)
    asked = found["asked"]
    assert asked == {"sweeper": "multirun"}.get(name, name)
    runs = [Observed(run["lr"], run["seed"], 1.0) for run in found["runs"]]
    report = lr_report(runs, key=found["key"], asked=asked)
    [use] = [line.partition(": ")[2] for line in done.out.splitlines() if line.startswith("use it with: ")]
    advised = [extend(report, (0.01, 0.03), "low"), extend(report, (0.3,), "high"), add_rates(report, (0.15,))]
    for advice in dict.fromkeys(part for text in [*advised, add_seeds(report)] for part in text.split(", or ")):
        if advice != "add values of seed in sweep.space":
            then = program(*words_of(advice, made, str(done.run.relative_to(done.directory)), use))
            assert then.code in (0, 3), f"{advice}: {then.err}"  # 3: all diverged
            assert "known points: 0" not in then.err
    lost = program(*BASE, *words, *(shlex.split(failing) if "space" not in failing else [failing]))
    assert lost.code == 3, lost.err
    [line] = [line for line in lost.out.splitlines() if line.startswith("try lower ones with: ")]
    again = program(*shlex.split(line.partition(": ")[2])[3:])
    assert again.code in (0, 3), again.err
    assert max(run["lr"] for run in report_of(again.run)["runs"]) < 1e80
