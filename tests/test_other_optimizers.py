"""Optimizers of other packages: the learning rate that they really use, what is refused, and what to install."""

import importlib
import importlib.util
import io
import tomllib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from runner.optim.apply import apply_schedules
from runner.optim.readout import effective_lrs, lr_rules
from runner.records import StepRecord, from_json, to_json
from runner.signatures import EXTRAS, locate
from runner.tracking.jsonl import read_records
from runner.tracking.mapping import Counters, points
from runner.train.restoring import load_optimizer_state
from tests.conftest import ROOT, Program, Refusal


def group(model: nn.Module, **more: object) -> list[dict[str, object]]:
    return [{"params": list(model.parameters()), "name": "all", "initial_lr": 1.0, **more}]


@pytest.mark.parametrize("path", ["prodigyopt.Prodigy", "pytorch_optimizer.Prodigy", "pytorch_optimizer.DAdaptAdam"])
def test_effective_rate_is_the_size_of_the_next_update(path: str) -> None:
    """With betas near 0 and a gradient that stays, Adam moves every weight by the learning rate."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    optimizer = locate(path)(group(model), lr=1.0, betas=(1e-9, 1e-9), d0=1e-3)
    for step in range(8):
        apply_schedules(optimizer, {("all", "lr"): lambda step: 1.0 / (step + 1)}, step)
        used, before = effective_lrs(optimizer)["all"], model.weight.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        moved = (before - model.weight.detach()).abs().max().item()
        assert moved == pytest.approx(float(used), rel=1e-3), step
    assert list(lr_rules(optimizer)) == [
        "the learning rate used and recorded is d x lr, where d is what the optimizer estimates"
    ]


def test_clipping_threshold_of_adafactor_is_no_estimate() -> None:
    optimizer = torch.optim.Adafactor(group(nn.Linear(2, 2)), lr=0.5, d=3.0)
    assert effective_lrs(optimizer) == {"all": 0.5}
    assert not list(lr_rules(optimizer))


def test_rate_that_is_a_tensor_is_written_in_place_and_read_as_it_was() -> None:
    optimizer = torch.optim.SGD(group(nn.Linear(2, 2)), lr=0.1)
    rate = optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    apply_schedules(optimizer, {("all", "lr"): lambda step: 0.25}, 0)
    assert optimizer.param_groups[0]["lr"] is rate
    read = effective_lrs(optimizer)["all"]
    apply_schedules(optimizer, {("all", "lr"): lambda step: 0.5}, 0)
    assert (float(read), float(rate)) == (0.25, 0.5)


def test_run_records_the_effective_rate_beside_the_nominal_one(program: Program) -> None:
    done = program("optimizer=prodigy", "train.duration=30", "schedule=linear", "train.eval_every=null")
    assert done.code == 0, done.err
    assert "the learning rate used and recorded is d x lr" in done.out
    steps = [record for record in read_records(done.run) if isinstance(record, StepRecord)]
    assert steps[0].lr == pytest.approx(1e-6 * float(steps[0].lr_nominal or 0))
    assert max(record.lr_nominal or 0 for record in steps) == pytest.approx(1.0)
    estimates = [record.lr / (record.lr_nominal or 1) for record in steps]
    assert estimates == sorted(estimates), "Prodigy's estimate only grows"
    assert estimates[-1] > 10 * estimates[0]
    saved = torch.load(done.run / "checkpoints/last.pt", weights_only=True)["optimizer"]["param_groups"][0]
    assert saved["d"] >= estimates[-1]
    found = {point.key: point.value for point in points(steps[5], Counters())[0]}
    assert found["train/lr"] == steps[5].lr
    assert found["train/lr_nominal"] == steps[5].lr_nominal
    assert from_json(to_json(steps[5])) == steps[5]
    assert "optimizer.lr 1 x d, which Prodigy estimates" in program("mode=preview", "optimizer=prodigy").out


def test_interrupted_prodigy_goes_on_bit_for_bit(program: Program) -> None:
    declared = ["optimizer=prodigy", "task.hidden=[16]", "train.duration=20", "train.eval_every=null"]
    whole = program(*declared)
    part = program(*declared, "train.max_seconds=1e-9")
    rest = program(f"resume.from={part.run}", "train.max_seconds=null")
    one, other = (torch.load(run.run / "checkpoints/last.pt", weights_only=True)["model"] for run in (whole, rest))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_optimizers_record_no_nominal_rate(program: Program) -> None:
    done = program("task=quadratic", "train.duration=3")
    assert "lr_nominal" not in (done.run / "records.jsonl").read_text()


def test_state_of_more_digits_than_the_weights_survives_a_checkpoint() -> None:
    """torch alone rounds all state to the format of the parameter."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(group(model), lr=0.1)
    fine = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    optimizer.state[model.weight] = {"own": {"sum": fine, "count": 3}, "parts": (fine, [fine])}
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = torch.optim.SGD(group(model), lr=0.1)
    load_optimizer_state(second, torch.load(file, weights_only=True))
    loaded = second.state[model.weight]
    assert loaded["own"]["count"] == 3
    for value in (loaded["own"]["sum"], loaded["parts"][0], loaded["parts"][1][0]):
        assert value.dtype == torch.float64
        assert torch.equal(value, fine)


@pytest.mark.parametrize("name", ["nadamw", "lamb", "cadamw", "sgd"])
def test_factory_of_timm_takes_groups_and_names(program: Program, name: str) -> None:
    pytest.importorskip("timm")
    done = program("optimizer=timm", f"optimizer.opt={name}", "param_groups=no_decay_1d", "train.duration=20")
    assert done.code == 0, done.err


def adamw(weights: list[dict[str, object]], lr: float = 1e-3, name: str = "adamw") -> torch.optim.Optimizer:
    """A function that makes an optimizer, as a user may write one."""
    if name == "lbfgs":
        return torch.optim.LBFGS([w for group in weights for w in group["params"]], lr=lr)  # type: ignore[attr-defined]
    return torch.optim.AdamW(weights, lr=lr)


def test_function_that_declares_to_return_an_optimizer_makes_one(program: Program) -> None:
    done = program("~optimizer.momentum", "~optimizer.dampening", "~optimizer.weight_decay", "~optimizer.nesterov",
                   "optimizer._target_=tests.test_other_optimizers.adamw", "train.duration=5")  # fmt: skip
    assert done.code == 0, done.err
    assert torch.load(done.run / "checkpoints/last.pt", weights_only=True)["optimizer_class"] == "AdamW"


MADE = "optimizer._target_=tests.test_other_optimizers.adamw ~optimizer.momentum ~optimizer.dampening "
MADE += "~optimizer.weight_decay ~optimizer.nesterov "


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            MADE + "+optimizer.weights=3",
            "optimizer.weights: must not be set, the runner fills it in, got 3. Remove it.",
        ),
        (
            MADE + "+optimizer.name=lbfgs",
            "optimizer: must step without a closure, got LBFGS. Choose another optimizer.",
        ),
        (
            "optimizer=prodigy param_groups=tests",
            "param_groups: must give all groups one learning rate with Prodigy, which estimates one for all, got "
            "0.5, 1. Set param_groups=all, or another optimizer.",
        ),
        (
            "optimizer=prodigy param_groups=patterns param_groups.rules={a:{match:4,schedule:{_target_:"
            "runner.schedules.decays.constant}},rest:{match:'*'}}",
            "param_groups: must give all groups one schedule with Prodigy, which estimates one rate for all, got "
            "another for a. Remove it, or set another optimizer.",
        ),
        (
            "optimizer=prodigy optimizer.d0=0",
            "optimizer: must be accepted by prodigyopt.Prodigy, which says: Invalid d0 value: 0. Change optimizer.",
        ),
        (
            "optimizer=adan optimizer.betas=[0.9,1,0.9]",
            "optimizer.betas: must be a list, each item >= 0 and < 1, got [0.9, 1, 0.9]. Set "
            "optimizer.betas=[0.9,0.999], usual for Adam.",
        ),
        (
            "optimizer=adamw optimizer.weight_decay=-0.1",
            "optimizer.weight_decay: must be a number >= 0, got -0.1. Set optimizer.weight_decay=0.",
        ),
        (
            "optimizer=adamw +optimizer.devices=[cuda] train.device=cpu",
            "optimizer._target_: must be an optimizer that runs on cpu, got 'torch.optim.AdamW', which needs cuda. "
            "Choose another optimizer.",
        ),
    ],
)
def test_what_an_optimizer_cannot_do_is_refused(refuse: Callable[..., Refusal], overrides: str, message: str) -> None:
    words = overrides.replace("param_groups=tests", "param_groups._target_=tests.test_other_optimizers.halves")
    refusal = refuse(*words.split())
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [f"  {message}"]
    assert refusal.left_behind == []


def halves() -> Callable[[nn.Module], object]:
    """A grouping of two learning rates."""
    from runner.optim.groups import Group

    def split(model: nn.Module) -> list[Group]:
        first, *others = model.parameters()
        return [Group("first", [first], lr_multiplier=0.5), Group("others", others)]

    return split


@pytest.mark.parametrize(("package", "extra"), sorted(EXTRAS.items()))
def test_missing_package_is_named_with_the_extra_that_brings_it(
    refuse: Callable[..., Refusal], monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    import_module = importlib.import_module

    def without(name: str, *args: str) -> object:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return import_module(name, *args)

    monkeypatch.setattr("runner.signatures.importlib.import_module", without)
    refusal = refuse(f"optimizer._target_={package}.Some")
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [
        f"  optimizer._target_: must be importable, but {package} is not installed, got '{package}.Some'. "
        f"Install it: pip install 'stepsize-runner[{extra}]', or '.[{extra}]' in a checkout."
    ]


def test_extras_are_declared_and_bring_what_the_optimizers_name() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(need.replace("-", "_").startswith(package) for need in declared[extra])
    pages = [path.read_text() for path in (ROOT / "conf/optimizer").glob("*.yaml")]
    named = {line.split()[1].partition(".")[0] for page in pages for line in page.splitlines() if "_target_:" in line}
    assert named - {"torch", "runner"} == set(EXTRAS)
