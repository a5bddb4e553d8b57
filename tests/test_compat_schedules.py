"""The presets for torch, transformers, timm and optax: value for value, by tables and by the libraries themselves."""

import functools
import importlib.util
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from runner.schedules.compat import optax as of_optax
from runner.schedules.compat import timm as of_timm
from runner.schedules.compat import transformers as of_transformers
from runner.schedules.compat.optax_shapes import Cycle
from runner.schedules.cycles import one_cycle
from runner.schedules.decays import cosine
from runner.schedules.joins import times
from runner.schedules.shape import Schedule
from runner.schedules.warmups import linear as linear_warmup
from runner.torch_schedule import tabulated
from tests.conftest import Program, Refusal

GOLDEN = json.loads((Path(__file__).parent / "golden_schedules.json").read_text())
LENGTHS = [1, 2, 3, 10, 97]


def torch_schedule(run_steps: int, scheduler: Callable[..., Any], /, *, lr: float = 1.0, **arguments: Any) -> Schedule:
    return tabulated(scheduler=functools.partial(scheduler, **arguments), total_steps=run_steps, base_lr=lr)


def sequence(*parts: Callable[..., Any], milestones: list[int]) -> Schedule:
    return torch_schedule(100, lr_scheduler.SequentialLR, schedulers=list(parts), milestones=milestones)


bind = functools.partial
of_torch = bind(torch_schedule, 100)
hf = bind(of_transformers.schedule, total_steps=100, base_lr=1.0)
timm = bind(of_timm.schedule, total_steps=100, base_lr=1.0)
optax = bind(of_optax.schedule, total_steps=100, base_lr=1.0)
ROWS: dict[str, Schedule] = {
    "torch.CosineAnnealingLR(T_max=100,eta_min=0)": of_torch(lr_scheduler.CosineAnnealingLR),
    "torch.CosineAnnealingLR(T_max=100,eta_min=0.1)": of_torch(lr_scheduler.CosineAnnealingLR, eta_min=0.1),
    "torch.SequentialLR(LinearLR(0.1,10),Cosine(90),[10])": sequence(
        bind(lr_scheduler.LinearLR, start_factor=0.1, total_iters=10),
        bind(lr_scheduler.CosineAnnealingLR, T_max=90),
        milestones=[10],
    ),
    "torch.SequentialLR(LinearLR(1e-8,10),Cosine(90,.1),[10])": sequence(
        bind(lr_scheduler.LinearLR, start_factor=1e-8, total_iters=10),
        bind(lr_scheduler.CosineAnnealingLR, T_max=90, eta_min=0.1),
        milestones=[10],
    ),
    "torch.CosineAnnealingWarmRestarts(T_0=25,T_mult=1)": of_torch(lr_scheduler.CosineAnnealingWarmRestarts, T_0=25),
    "torch.CosineAnnealingWarmRestarts(T_0=25,T_mult=2,.1)": of_torch(
        lr_scheduler.CosineAnnealingWarmRestarts, T_0=25, T_mult=2, eta_min=0.1
    ),
    "torch.PolynomialLR(total=100,power=1)": of_torch(lr_scheduler.PolynomialLR, total_iters=100),
    "torch.PolynomialLR(total=100,power=2)": of_torch(lr_scheduler.PolynomialLR, total_iters=100, power=2.0),
    "torch.ExponentialLR(gamma=0.97)": of_torch(lr_scheduler.ExponentialLR, gamma=0.97),
    "torch.StepLR(30,0.1)": of_torch(lr_scheduler.StepLR, step_size=30),
    "torch.MultiStepLR([50,75],0.1)": of_torch(lr_scheduler.MultiStepLR, milestones=[50, 75]),
    "torch.OneCycleLR(1.0,total_steps=101,pct=.1,cos) lr": of_torch(
        lr_scheduler.OneCycleLR, total_steps=101, pct_start=0.1
    ),
    "torch.OneCycleLR(1.0,total_steps=100) defaults lr": of_torch(lr_scheduler.OneCycleLR),
    "torch.OneCycleLR(1.0,100,pct=.1,linear)": of_torch(
        lr_scheduler.OneCycleLR, pct_start=0.1, anneal_strategy="linear"
    ),
    "torch.OneCycleLR(1.0,100,pct=.3,three_phase)": of_torch(lr_scheduler.OneCycleLR, three_phase=True),
    "torch.CyclicLR(0.1,1.0,step_size_up=10,triangular2)": of_torch(
        lr_scheduler.CyclicLR, base_lr=0.1, step_size_up=10, mode="triangular2"
    ),
    "hf.constant_with_warmup(10)": hf(name="constant_with_warmup", warmup=10),
    "hf.linear_with_warmup(10,100)": hf(warmup=10),
    "hf.cosine_with_warmup(10,100)": hf(name="cosine", warmup=10),
    "hf.cosine_with_hard_restarts(10,100,cycles=2)": hf(name="cosine_with_restarts", warmup=10, num_cycles=2),
    "hf.cosine_with_min_lr(10,100,min_lr_rate=.1)": hf(name="cosine_with_min_lr", warmup=10, min_lr_rate=0.1),
    "hf.polynomial(10,100,lr_end=0.01,power=1)": hf(name="polynomial", warmup=10, lr_end=0.01),
    "hf.polynomial(10,100,lr_end=0.01,power=2)": hf(name="polynomial", warmup=10, lr_end=0.01, power=2),
    "hf.inverse_sqrt(10)": hf(name="inverse_sqrt", warmup=10),
    **{
        f"hf.wsd(10,decay=20,stable=70,decay_type={bend})": hf(
            name="warmup_stable_decay", warmup=10, num_decay_steps=20, decay_type=bend
        )
        for bend in ("linear", "cosine", "1-sqrt")
    },
    "timm.Cosine(100,lr_min=.01,wt=10,wl=0,prefix=False)": timm(lr_min=0.01, warmup_t=10),
    "timm.Cosine(90,lr_min=.01,wt=10,wl=0,prefix=True)": timm(lr_min=0.01, warmup_t=10, warmup_prefix=True),
    "timm.Cosine(50,cycle_limit=2,decay=.5,lr_min=0)": timm(t_initial=50, cycle_limit=2, cycle_decay=0.5),
    "timm.Poly(100,power=.5,lr_min=0,wt=10)": timm(name="poly", warmup_t=10),
    "timm.Tanh(100,lb=-7,ub=3,wt=10)": timm(name="tanh", warmup_t=10),
    "optax.warmup_cosine_decay(0,1,10,100,end=.1)": optax(warmup_steps=10, end_value=0.1),
    "optax.warmup_exponential_decay(0,1,10,ts=30,rate=.5)": optax(
        name="warmup_exponential_decay", warmup_steps=10, transition_steps=30, decay_rate=0.5
    ),
    "optax.linear_onecycle(100,1.0)": optax(name="linear_onecycle"),
    "optax.cosine_onecycle(100,1.0)": optax(name="cosine_onecycle"),
    "optax.polynomial(1,0,power=2,steps=90,begin=10)": optax(name="polynomial", power=2, transition_begin=10),
    "optax.sgdr([2x 50, warm 10])": optax(name="sgdr", cosine_kwargs=[Cycle(decay_steps=50, warmup_steps=10)] * 2),
}


def test_every_row_of_the_four_libraries_in_the_table_has_a_preset() -> None:
    rows = {name for name, _ in GOLDEN["rows"] if name.partition(".")[0] in ("torch", "hf", "timm", "optax")}
    assert rows == ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_preset_equals_the_published_values(row: str) -> None:
    expected = dict(GOLDEN["rows"])[row]
    points = [(t, value) for t, value in zip(GOLDEN["steps"], expected, strict=True) if not math.isnan(value)]
    assert [ROWS[row](t) for t, _ in points] == pytest.approx([value for _, value in points], rel=0, abs=1e-9)


def values_of(make: Callable[[torch.optim.Optimizer], Any], steps: int, *, lr: float) -> list[float]:
    """Factors that a library's scheduler gives to an optimizer at steps 0 .. T."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr, momentum=0.9)
    scheduler, values = make(optimizer), []
    for _ in range(steps + 1):
        values.append(optimizer.param_groups[0]["lr"] / lr)
        optimizer.step()
        scheduler.step()
    return values


HF_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.3}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-3, "power": 2.5}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 50}),
    ("cosine_with_min_lr", {"min_lr": 0.003}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 0.8}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2}),
    ("cosine_warmup_with_min_lr", {"min_lr": 0.003, "warmup_lr_rate": 0.05}),
    ("warmup_stable_decay", {"decay_type": "linear", "warmup_type": "cosine", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"decay_type": "cosine", "warmup_type": "1-sqrt", "num_cycles": 0.7}),
    ("warmup_stable_decay", {"decay_type": "1-sqrt", "num_stable_steps": 1}),
]


def hf_library(name: str, total: int, warmup: int, arguments: dict[str, Any]) -> Callable[..., Any]:
    optimization = pytest.importorskip("transformers.optimization")
    return lambda optimizer: optimization.get_scheduler(name, optimizer, warmup, total, arguments)


@pytest.mark.parametrize("total", LENGTHS)
@pytest.mark.parametrize(("name", "arguments"), HF_ARGUMENTS)
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_transformers_gives_the_same_at_every_step(name: str, arguments: dict[str, Any], total: int) -> None:
    arguments = arguments | ({"num_decay_steps": math.ceil(total / 3)} if name == "warmup_stable_decay" else {})
    for warmup in {0, total // 3}:
        expected = values_of(hf_library(name, total, warmup, arguments), total, lr=0.03)
        written = arguments | ({} if name == "constant" else {"warmup": warmup})
        written["floor"] = written.pop("min_lr") / 0.03 if "min_lr" in written else None  # as the runner does
        ours = of_transformers.schedule(total_steps=total, base_lr=0.03, name=name, **written)
        assert [ours(t) for t in range(total + 1)] == pytest.approx(expected, rel=0, abs=1e-9)


@given(
    total=st.integers(2, 60),
    share=st.floats(0, 0.9),
    cycles=st.floats(0.1, 5),
    floor=st.floats(0, 1),
    name=st.sampled_from(["cosine_with_min_lr", "cosine_warmup_with_min_lr"]),
)
def test_transformers_gives_the_same_for_any_arguments(
    total: int, share: float, cycles: float, floor: float, name: str
) -> None:
    warmup = int(share * total)
    arguments: dict[str, Any] = {"num_cycles": cycles, "min_lr_rate": floor}
    expected = values_of(hf_library(name, total, warmup, arguments), total, lr=0.03)
    ours = of_transformers.schedule(total_steps=total, base_lr=0.03, name=name, warmup=warmup, **arguments)
    assert [ours(t) for t in range(total + 1)] == pytest.approx(expected, rel=0, abs=1e-9)


def test_transformers_has_no_other_schedule_of_the_step() -> None:
    names = {member.value for member in pytest.importorskip("transformers.trainer_utils").SchedulerType}
    assert names - {"reduce_lr_on_plateau", "greedy"} == {name for name, _ in HF_ARGUMENTS}


TIMM_CLASSES = {
    "cosine": "CosineLRScheduler",
    "tanh": "TanhLRScheduler",
    "poly": "PolyLRScheduler",
    "step": "StepLRScheduler",
    "multistep": "MultiStepLRScheduler",
    "wsd": "WSDLRScheduler",
}


def timm_arguments(total: int) -> list[tuple[str, dict[str, Any]]]:
    third = math.ceil(total / 3)
    cycles = [
        {},
        {"lr_min": 0.002, "warmup_prefix": True},
        {"cycle_mul": 2.0, "cycle_decay": 0.5, "cycle_limit": 3, "lr_min": 0.002},
        {"cycle_mul": 1.5, "cycle_limit": 9},
        {"cycle_limit": 2, "cycle_decay": 0.7},
    ]
    return [
        *[(name, {"t_initial": third, **cycle}) for name in ("cosine", "tanh", "poly") for cycle in cycles],
        ("cosine", {"t_initial": total, "k_decay": 1.7}),
        ("poly", {"t_initial": total, "k_decay": 0.6, "power": 1.3}),
        ("tanh", {"t_initial": total, "lb": -4.0, "ub": 2.0}),
        ("step", {"decay_t": third, "decay_rate": 0.3}),
        ("step", {"decay_t": third, "decay_rate": 0.3, "warmup_prefix": False}),
        ("multistep", {"decay_milestones": [third, third, total], "decay_rate": 0.3}),
        *[
            ("wsd", {"t_initial": total, "decay_t": third, "lr_min": 0.002, "stable_timescale": 7, **shapes})
            for shapes in (
                {"stable_fn": "rsqrt", "decay_fn": "linear"},
                {"stable_fn": "power", "stable_power": 0.3, "decay_fn": "power", "decay_power": 2.0},
                {"decay_fn": "cosine"},
                {"decay_fn": "exp", "decay_ratio": 0.2},
                {},
            )
        ],
    ]


@pytest.mark.parametrize("total", LENGTHS)
def test_timm_gives_the_same_at_every_step(total: int) -> None:
    scheduler = pytest.importorskip("timm.scheduler")
    for name, arguments in timm_arguments(total):
        for warmup in {0, total // 4}:
            written = arguments | {"warmup_t": warmup, "warmup_lr_init": 0.001}
            theirs = {"decay_t" if key == "decay_milestones" else key: value for key, value in written.items()}
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.03)
            library = getattr(scheduler, TIMM_CLASSES[name])(optimizer, t_in_epochs=False, **theirs)
            ours = of_timm.schedule(total_steps=total, base_lr=0.03, name=name, **written)
            expected = [library._get_lr(t)[0] / 0.03 for t in range(total + 1)]
            assert [ours(t) for t in range(total + 1)] == pytest.approx(expected, rel=0, abs=1e-9), (name, written)


def test_timm_by_epochs_holds_its_value_within_an_epoch() -> None:
    by_step = of_timm.schedule(total_steps=10, base_lr=1.0, warmup_t=4)
    by_epoch = of_timm.schedule(total_steps=70, base_lr=1.0, warmup_t=28, interval=7)
    assert [by_epoch(t) for t in range(71)] == [by_step(t // 7) for t in range(71)]


def optax_arguments(total: int) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments that optax's functions and ours share; 0.03 is the peak."""
    half, warmup = math.ceil(total / 2), total // 4
    falling = {"transition_steps": half, "transition_begin": warmup}
    edges: list[dict[str, Any]] = [
        {"decay_rate": 0.5},
        {"decay_rate": 0.1, "staircase": True, "end_value": 0.004},
        {"decay_rate": 1.5, "end_value": 0.04},
    ]
    return [
        ("polynomial", {**falling, "init_value": 0.01, "end_value": 0.02, "power": 1.7}),
        ("linear", {**falling, "init_value": 0.03, "end_value": 0.001}),
        ("cosine_decay", {"decay_steps": half, "alpha": 0.1, "exponent": 1.7}),
        ("warmup_constant", {"init_value": 0.001, "warmup_steps": max(1, warmup)}),
        ("warmup_cosine_decay", {"init_value": 0.0, "warmup_steps": warmup, "decay_steps": total, "end_value": 0.003}),
        *[("exponential_decay", falling | edge) for edge in edges],
        *[
            ("warmup_exponential_decay", falling | edge | {"init_value": 0.001, "warmup_steps": warmup})
            for edge in edges
        ],
        ("linear_onecycle", {"transition_steps": half, "pct_start": 0.29, "div_factor": 10.0}),
        ("cosine_onecycle", {"transition_steps": total, "final_div_factor": 50.0}),
    ]


OPTAX = """
import inspect, json, sys
import jax, optax
jax.config.update("jax_enable_x64", True)
found = []
for total, name, arguments in json.load(sys.stdin):
    library = getattr(optax, f"{name}_schedule", None) or getattr(optax, name)
    peak = {"peak_value", "init_value"} & inspect.signature(library).parameters.keys() - arguments.keys()
    theirs = library(**arguments, **dict.fromkeys(peak, 0.03))
    found.append([float(theirs(t)) / 0.03 for t in range(total + 1)])
print(json.dumps(found))
"""


def test_optax_gives_the_same_at_every_step() -> None:
    """In a process of its own: JAX changes logging and streams of the one that imports it."""
    if importlib.util.find_spec("optax") is None:
        pytest.skip("optax is not installed")
    asked = [(total, name, arguments) for total in LENGTHS for name, arguments in optax_arguments(total)]
    done = subprocess.run(
        [sys.executable, "-c", OPTAX], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for (total, name, arguments), expected in zip(asked, json.loads(done.stdout), strict=True):
        ours = of_optax.schedule(total_steps=total, base_lr=0.03, name=name, **arguments)
        assert [ours(t) for t in range(total + 1)] == pytest.approx(expected, rel=0, abs=1e-9), (name, arguments)


def test_piecewise_schedules_of_optax_meet_at_their_boundaries() -> None:
    pieces: dict[str, Any] = {"boundaries": [20, 60], "scales": [0.5, 0.1]}
    jumps = of_optax.schedule(total_steps=100, base_lr=1.0, name="piecewise_constant", **pieces)
    assert [jumps(t) for t in (0, 19, 20, 59, 60, 100)] == pytest.approx([1, 1, 0.5, 0.5, 0.05, 0.05])
    for curve in ("linear", "cosine"):
        joined = of_optax.schedule(
            total_steps=100, base_lr=1.0, name="piecewise_interpolate", interpolate_type=curve, **pieces
        )
        assert [joined(t) for t in (0, 10, 20, 40, 60, 100)] == pytest.approx([1, 0.75, 0.5, 0.275, 0.05, 0.05])


def halve(epoch: int, *, every: int) -> float:
    return 0.5 ** (epoch // every)


TORCH_ARGUMENTS: list[tuple[type[LRScheduler], dict[str, Any]]] = [
    (lr_scheduler.LambdaLR, {"lr_lambda": functools.partial(halve, every=3)}),
    (lr_scheduler.MultiplicativeLR, {"lr_lambda": lambda epoch: 0.97}),
    (lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.3}),
    (lr_scheduler.MultiStepLR, {"milestones": [3, 3, 40]}),
    (lr_scheduler.ConstantLR, {}),
    (lr_scheduler.LinearLR, {}),
    (lr_scheduler.ExponentialLR, {"gamma": 0.99}),
    (lr_scheduler.PolynomialLR, {"total_iters": 50, "power": 2.0}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 30, "eta_min": 0.001}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 5, "T_mult": 2}),
    (lr_scheduler.CyclicLR, {"base_lr": 0.001, "max_lr": 0.02, "step_size_up": 9, "mode": "exp_range"}),
    (lr_scheduler.OneCycleLR, {"max_lr": 0.05, "total_steps": 1200}),
]


@pytest.mark.parametrize("total", LENGTHS)
@pytest.mark.parametrize(("scheduler", "arguments"), TORCH_ARGUMENTS)
def test_torch_gives_the_same_at_every_step(
    scheduler: type[LRScheduler], arguments: dict[str, Any], total: int
) -> None:
    expected = values_of(functools.partial(scheduler, **arguments), total, lr=0.03)
    ours = torch_schedule(total, scheduler, lr=0.03, **arguments)
    assert [ours(t) for t in range(total + 1)] == expected
    assert ours(10 * total) == ours(total)


def test_every_scheduler_of_torch_is_compared() -> None:
    classes = {value for value in vars(lr_scheduler).values() if inspect.isclass(value)}
    known = {value for value in classes if issubclass(value, LRScheduler) and not value.__name__.startswith("_")}
    compared = {scheduler for scheduler, _ in TORCH_ARGUMENTS}
    elsewhere = {lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler, lr_scheduler.ReduceLROnPlateau, LRScheduler}
    assert known == compared | elsewhere


def test_schedulers_of_torch_inside_schedulers_share_one_optimizer() -> None:
    def by_hand(optimizer: torch.optim.Optimizer) -> LRScheduler:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
        fall = lr_scheduler.PolynomialLR(optimizer, total_iters=90)
        rest = lr_scheduler.ExponentialLR(optimizer, 0.99)
        return lr_scheduler.ChainedScheduler([lr_scheduler.SequentialLR(optimizer, [rise, fall], [4]), rest])

    rise: Any = bind(lr_scheduler.LinearLR, start_factor=0.1, total_iters=4)
    fall: Any = bind(lr_scheduler.PolynomialLR, total_iters=90)
    joined = bind(lr_scheduler.SequentialLR, schedulers=[rise, fall], milestones=[4])
    rest = bind(lr_scheduler.ExponentialLR, gamma=0.99)
    ours = torch_schedule(100, lr_scheduler.ChainedScheduler, schedulers=[joined, rest])
    assert [ours(t) for t in range(101)] == values_of(by_hand, 100, lr=1.0)


def test_torch_by_epochs_steps_once_an_epoch() -> None:
    step = bind(lr_scheduler.StepLR, step_size=2)
    ours = tabulated(scheduler=step, total_steps=35, base_lr=0.1, interval=7)
    assert [ours(t) for t in (0, 13, 14, 27, 28, 35)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_torch_is_told_the_length_of_the_run_in_what_the_scheduler_counts() -> None:
    for interval in (1, 7):
        ours = tabulated(scheduler=lr_scheduler.CosineAnnealingLR, total_steps=70, base_lr=0.1, interval=interval)
        assert [ours(0), ours(35), ours(70)] == pytest.approx([1, 0.5, 0], abs=1e-9)


# --- what the libraries get wrong, beside what ours does -------------------------------------------------------------


def test_one_cycle_of_torch_rises_past_its_end_and_ours_holds() -> None:
    theirs, ours = of_torch(lr_scheduler.OneCycleLR), one_cycle(total_steps=100)
    assert [theirs(99), theirs(100)] == pytest.approx([4e-6, 5.0746e-4], rel=1e-4)
    assert ours(100) == ours(101) == pytest.approx(4e-6)


def test_one_cycle_of_torch_skips_the_peak_of_a_short_run_and_ours_starts_there() -> None:
    theirs = [torch_schedule(run, lr_scheduler.OneCycleLR)(0) for run in (1, 2, 3)]
    assert theirs == pytest.approx([4e-6, 0.8117, 0.9944], abs=1e-4)
    assert [one_cycle(total_steps=run)(0) for run in (1, 2, 3)] == [1, 1, 1]


def test_cosine_of_torch_climbs_again_after_its_end_and_ours_holds() -> None:
    theirs, ours = of_torch(lr_scheduler.CosineAnnealingLR, T_max=50), cosine(total_steps=50)
    assert [theirs(50), theirs(75), theirs(100)] == pytest.approx([0, 0.5, 1], abs=1e-9)
    assert [ours(50), ours(75), ours(100)] == [0, 0, 0]


def test_eta_min_of_torch_raises_a_lower_learning_rate_and_our_floor_is_a_factor() -> None:
    theirs = torch_schedule(100, lr_scheduler.CosineAnnealingLR, lr=0.01, eta_min=0.1)
    assert theirs(100) == pytest.approx(10.0)
    assert cosine(total_steps=100, floor=0.1)(100) == pytest.approx(0.1)


def test_warmup_before_one_cycle_of_torch_ends_at_a_25th_of_the_peak_and_ours_multiplies() -> None:
    warm = bind(lr_scheduler.LinearLR, start_factor=0.1, total_iters=10)
    for pct_start, after in ((0.3, 0.04), (0.01, 0.98)):  # with a short rise it then jumps
        cycle = bind(lr_scheduler.OneCycleLR, total_steps=90, max_lr=1.0, pct_start=pct_start)
        theirs = sequence(warm, cycle, milestones=[10])
        assert [theirs(0), theirs(9)] == pytest.approx([0.004, 0.0364])
        assert theirs(10) >= after
    ours = times(linear_warmup(duration=10).factor, one_cycle(total_steps=100))
    assert [ours(0), ours(9), ours(10)] == pytest.approx([0.004, 0.2516, 0.2951], abs=1e-3)


def test_overlapping_warmup_of_timm_drops_from_075_to_0655_and_ours_joins_at_the_peak() -> None:
    theirs = of_timm.schedule(total_steps=10, base_lr=1.0, warmup_t=4)
    assert [theirs(3), theirs(4)] == pytest.approx([0.75, 0.6545], abs=1e-4)
    ours = times(linear_warmup(duration=4).factor, cosine(total_steps=10, warmup_steps=4))
    assert [ours(2), ours(3), ours(4)] == pytest.approx([0.75, 1, 0.9505], abs=1e-4)


def test_multistep_of_timm_drops_one_epoch_before_torch() -> None:
    theirs = timm(name="multistep", decay_milestones=[50], decay_rate=0.1)
    torchs = of_torch(lr_scheduler.MultiStepLR, milestones=[50])
    assert [theirs(48), theirs(49), torchs(49), torchs(50)] == pytest.approx([1, 0.1, 1, 0.1])


def test_linear_one_cycle_of_optax_ends_at_its_start_over_final_div_factor() -> None:
    assert optax(name="linear_onecycle")(100) == pytest.approx(1 / 25 / 1e4)  # its docstring says 1 / 1e4


# --- through the program ---------------------------------------------------------------------------------------------


def lrs(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return [record["lr"] for record in records if record["kind"] == "step"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["schedule=transformers", "schedule.name=cosine", "schedule.warmup=10%"], hf(name="cosine", total_steps=20, warmup=2)),
        (
            ["schedule=timm", "schedule.interval=10%", "schedule.warmup_t=20%", "schedule.warmup_lr_init=0.01"],
            timm(total_steps=20, interval=2, warmup_t=4, warmup_lr_init=0.02),
        ),
        (
            ["schedule=optax", "schedule.name=piecewise_constant", "schedule.boundaries=[5,50%]", "schedule.scales=[0.1,0.5]"],
            optax(name="piecewise_constant", boundaries=[5, 10], scales=[0.1, 0.5]),
        ),
        (
            [
                "schedule=torch",
                "schedule.scheduler._target_=torch.optim.lr_scheduler.MultiStepLR",
                "+schedule.scheduler.milestones=[5,10]",
            ],
            of_torch(lr_scheduler.MultiStepLR, milestones=[5, 10]),
        ),
    ],
)  # fmt: skip
def test_run_trains_with_the_learning_rates_of_the_preset(
    overrides: list[str], expected: Schedule, program: Program
) -> None:
    done = program("task=quadratic", "train.duration=20", "optimizer.lr=0.5", "optimizer=sgd", *overrides)
    assert done.code == 0, done.err
    assert lrs(done.run) == pytest.approx([0.5 * expected(t) for t in range(20)], rel=1e-12)


TORCH_OF = "schedule.scheduler._target_=torch.optim.lr_scheduler"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("schedule=transformers schedule.name=cosin", "schedule.name: must be one of constant, constant_with_warmup, cosine, cosine_warmup_with_min_lr, cosine_with_min_lr, cosine_with_restarts, inverse_sqrt, linear, polynomial, warmup_stable_decay (nearest: cosine), got 'cosin'. Set schedule.name=linear."),
        ("schedule=transformers schedule.name=greedy", "schedule.name: must be a function of the step; one that looks at the loss is detector plateau with remedy reduce_lr, got 'greedy'. Set schedule.name=linear."),
        ("schedule=transformers schedule.power=2", "schedule.power: must be null with name=linear, which takes warmup, got 2.0. Set schedule.power=null."),
        ("schedule=transformers schedule.name=cosine schedule.num_cycles=0", "schedule.num_cycles: must be a finite number > 0 or null, got 0. Leave schedule.num_cycles out for its default."),
        ("schedule=transformers schedule.warmup=-3", "schedule.warmup: must be a duration >= 0 such as 500 (steps), 10%, 2ep or 64000ex, got -3. Leave schedule.warmup out for its default."),
        ("schedule=transformers schedule.warmup=500", "schedule.warmup: must not be longer than the run of 20 steps, got 500 steps. Set schedule.warmup=5% or a longer train.duration."),
        ("schedule=transformers schedule.name=cosine_with_min_lr", "schedule.min_lr_rate: must be given here, or min_lr instead, got nothing. Set schedule.min_lr_rate=0.1."),
        ("schedule=transformers schedule.name=cosine_with_min_lr +schedule.min_lr=1", "schedule.min_lr: must be at most optimizer.lr=0.1, got 1. Set schedule.min_lr=0.01 or less."),
        ("schedule=transformers schedule.name=polynomial schedule.lr_end=0.2", "schedule.lr_end: must be at most the base learning rate 0.1, got 0.2. Set schedule.lr_end=0.01 or a larger optimizer.lr."),
        ("schedule=transformers schedule.name=warmup_stable_decay schedule.num_decay_steps=30", "schedule.num_decay_steps: must fit into the 20 steps after the warmup, got 30. Set schedule.num_decay_steps=20 or less."),
        ("schedule=timm schedule.name=step", "schedule.decay_t: must be given with name=step, got nothing. Set schedule.decay_t=10%."),
        ("schedule=timm schedule.interval=1ep schedule.warmup_t=3", "schedule.warmup_t: must be whole intervals of 22 steps, got 3 steps. Set schedule.warmup_t to 22 steps, or schedule.interval=1."),
        ("schedule=timm schedule.name=multistep schedule.decay_milestones=[8,50%,1]", "schedule.decay_milestones: must rise, got [8, 10, 1] intervals. Set schedule.decay_milestones in order."),
        ("schedule=optax schedule.name=warmup_constant", "schedule.warmup_steps: must be > 0 with name=warmup_constant, which else stays at init_value, got 0. Set schedule.warmup_steps=5%."),
        ("schedule=optax schedule.name=piecewise_constant schedule.boundaries=[5,9] schedule.scales=[0.1]", "schedule.scales: must be as many as the 2 boundaries, got 1. Set schedule.scales=[0.5,0.5]."),
        (f"schedule=torch {TORCH_OF}.StepLR", "schedule.scheduler: must be accepted by StepLR, which says: StepLR.__init__() missing 1 required positional argument: 'step_size'. Set its arguments as in +schedule.scheduler.gamma=0.5."),
        (f"schedule=torch {TORCH_OF}.OneCycleLR +schedule.scheduler.total_steps=7", "schedule.scheduler: must give finite learning rates >= 0 for 20 calls of step, but OneCycleLR says at 8: Tried to step 8 times. The specified number of total steps is 7. Change its arguments, beginning with its length."),
        (f"schedule=torch {TORCH_OF}.ReduceLROnPlateau", "schedule.scheduler: must be a function of the step, not of the loss, got ReduceLROnPlateau. Set schedule=constant detector=[default,plateau] remedy=[reduce_lr,stop]."),
        (f"schedule=torch {TORCH_OF}.ChainedScheduler +schedule.scheduler.schedulers=[{{_target_:torch.optim.lr_scheduler.ConstantLR}}]", "schedule.scheduler.schedulers.0.optimizer: must be given, got nothing. Set schedule.scheduler.schedulers.0._partial_=true, it is given later."),
        ("schedule=torch train.duration=30000000", "schedule.interval: must not make more than 20,000,000 values of a run of 30,000,000 steps, got 1. Set schedule.interval=2."),
    ],
)  # fmt: skip
def test_mistake_in_a_preset_is_refused_with_key_rule_value_and_fix(
    overrides: str, message: str, refuse_row: Callable[..., Refusal]
) -> None:
    refusal = refuse_row("train.duration=20", *overrides.split())
    assert refusal.code == 2
    assert refusal.err.splitlines() == ["1 problem in the configuration:", f"  {message}"]
    assert refusal.left_behind == []


def not_a_number(epoch: int) -> float:
    return math.nan


def test_learning_rate_that_is_no_number_is_refused_before_the_run() -> None:
    with pytest.raises(
        ValueError,
        match="finite learning rates >= 0 for 100 calls of step, but LambdaLR says at 0: the learning rate is nan",
    ):
        of_torch(lr_scheduler.LambdaLR, lr_lambda=not_a_number)
