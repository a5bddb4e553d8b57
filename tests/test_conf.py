"""Every YAML of conf/ composes, checks, builds and trains; every key carries a comment; the folder is found."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from runner.build import build
from runner.job import checked
from tests.conftest import ENVIRONMENT, ROOT, Program
from tests.contracts.conftest import missing, needs_of, optimizers
from tests.pages import CONF, composed

OPTIONS = [
    pytest.param(option, marks=missing(option.partition("=")[2]) if option.startswith("optimizer=") else [])
    for option in sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
]
LISTS = {"detector", "overlay", "remedy", "schedule_of"}
TORCH_WITHOUT_CLOSURE = {
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor",
}  # fmt: skip
PLAIN = sorted(
    path.stem for path in CONF.glob("optimizer/*.yaml") if "\n_target_: torch.optim." in f"\n{path.read_text()}"
)
ABOVE_1 = {"schedule=chebyshev"}  # the first factor of all others is at most 1


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes_checks_and_builds(option: str, tmp_path: Path) -> None:
    for file in ("records.jsonl", "config.yaml", "sweep.json"):
        (tmp_path / file).touch()
    group, name = option.split("=")
    reads = option in ("mode=upload", "mode=eval", "mode=diagnose", "mode=report")
    needs = [f"source={tmp_path}"] if reads else needs_of([option])
    value = f"{group}=[{name}]" if group in LISTS else option
    config = checked(composed(value, "train.duration=30", *needs))
    experiment = build(config)
    assert experiment.plan.steps == 30
    trained = [group for group in experiment.optimizer.param_groups if not group["frozen_steps"]]
    factors = [experiment.schedules[(group["name"], "lr")](0) for group in trained]
    assert factors
    assert all(0 < factor <= (20 if option in ABOVE_1 else 1) for factor in factors)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_carries_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    bare = []
    for number, line in enumerate(lines):
        is_key = re.match(r"\s*[\w.]+:( |$)", line)
        opens_section = line.rstrip().endswith(":")
        if (
            is_key
            and "#" not in line
            and not opens_section
            and not (number and lines[number - 1].lstrip().startswith("#"))
        ):
            bare.append(f"{path.name}:{number + 1} {line}")
    assert bare == []


@pytest.mark.parametrize("name", optimizers())
def test_optimizer_has_typical_ranges_with_their_source(name: str) -> None:
    optimizer = checked(composed(f"optimizer={name}")).optimizer
    assert optimizer.typical is not None
    low, high = optimizer.typical.from_scratch
    assert low <= optimizer.lr <= high
    assert len(optimizer.typical.source) > 20


@pytest.mark.parametrize("name", PLAIN)
def test_optimizer_takes_its_fastest_form_unless_told_otherwise(name: str) -> None:
    fastest = "fused" if name in ("sgd", "nesterov", "adam", "adamw", "adagrad") else "foreach"
    optimizer = build(checked(composed(f"optimizer={name}"))).optimizer
    assert optimizer.defaults[fastest] is True
    told = build(checked(composed(f"optimizer={name}", "+optimizer.foreach=false"))).optimizer
    assert told.defaults["foreach"] is False
    assert not told.defaults.get("fused")


def test_every_torch_optimizer_that_steps_without_a_closure_is_there() -> None:
    text = "".join(path.read_text() for path in CONF.glob("optimizer/*.yaml"))
    targets = set(re.findall(r"^_target_: torch\.optim\.(\w+)", text, re.MULTILINE))
    assert targets == TORCH_WITHOUT_CLOSURE


@pytest.mark.slow
def test_conf_is_found_from_an_installed_wheel_and_an_editable_install(tmp_path: Path) -> None:
    """A checkout is what all other tests run from."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
    for name, what in {"wheel": [str(wheel)], "editable": ["--editable", str(ROOT)]}.items():
        home = tmp_path / name
        # dependencies come from this environment, the package itself from the wheel or the checkout
        venv.create(home, with_pip=True, system_site_packages=False)
        site = next(home.glob("lib/python*/site-packages"))
        here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
        (site / "borrowed.pth").write_text(f"{here}\n")
        subprocess.run(
            [home / "bin/pip", "install", "--no-deps", "--no-build-isolation", "--quiet", *what],
            check=True,
            env=environment,
        )
        elsewhere = tmp_path / f"{name}-elsewhere"
        elsewhere.mkdir()
        for program in ([home / "bin/runner"], [home / "bin/python", "-m", "runner"]):
            done = subprocess.run(
                [*program, "tracking=off", "train.duration=3"],
                cwd=elsewhere,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert (elsewhere / done.stdout.splitlines()[-1] / "result.json").is_file()
        (elsewhere / "mine.py").write_text("from runner.tasks.quadratic import Quadratic as Mine\n")
        words = ["-m", "tracking=off", "task=quadratic", "task._target_=mine.Mine", "train.duration=3", "seed=0,1"]
        done = subprocess.run(
            [home / "bin/runner", *words], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (elsewhere / done.stdout.splitlines()[-1] / "sweep.json").is_file()


def test_learning_rate_far_outside_the_typical_range_is_a_warning_that_does_not_block(program: Program) -> None:
    done = program("optimizer.lr=1e-6", "train.duration=2")
    assert done.code == 0
    assert "warning optimizer.lr: 1e-06 is 1e+04 times below the typical range 0.01 to 0.8 of SGD" in done.err
    assert "warning" not in program("optimizer.lr=0.01", "train.duration=2").err
