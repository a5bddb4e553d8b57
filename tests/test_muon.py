"""Muon and AdamW as one optimizer: who gets what, at which learning rate, and that it survives a checkpoint."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from runner.optim.groups import Group
from runner.optim.muon import MuonAdamW, with_adamw_lr
from runner.optim.muon_groups import matrices_and_others
from runner.records import StepRecord
from runner.tasks.transformer import Transformer
from runner.tracking.jsonl import read_records
from tests.conftest import Program, Refusal

RULES = "param_groups=patterns param_groups.rules"


class Net(nn.Module):
    """Two dimensions everywhere: an embedding, a table of positions, attention, a recurrent layer, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.positions = nn.Parameter(torch.randn(5, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.memory = nn.LSTM(4, 4)
        self.filter = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight


def names(model: nn.Module, group: Group) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is other for other in group.parameters)}


def test_hidden_matrices_go_to_muon_and_all_else_to_adamw() -> None:
    model = Net()
    matrices, others = matrices_and_others()(model)
    assert names(model, matrices) == {
        "attention.in_proj_weight", "attention.out_proj.weight", "memory.weight_ih_l0", "memory.weight_hh_l0",
        "hidden.weight",
    }  # fmt: skip
    assert names(model, matrices) | names(model, others) == {name for name, _ in model.named_parameters()}
    assert not names(model, matrices) & names(model, others)


def test_head_embeddings_and_positions_of_the_transformer_stay_with_adamw() -> None:
    model = Transformer(11, context=8, width=8, depth=2, heads=2, dropout=0.0, norm="pre", qk_norm=True)
    matrices, others = matrices_and_others()(model)
    kinds = {name.rpartition("blocks.")[2].partition(".")[2] for name in names(model, matrices)}
    assert kinds == {
        "attention.project.weight", "attention.mix.weight", "feed_forward.widen.weight", "feed_forward.shrink.weight"
    }  # fmt: skip
    assert {"tokens.weight", "positions.weight", "head.weight"} <= names(model, others)


def test_frozen_matrices_are_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    matrices, others = matrices_and_others()(model)
    assert names(model, matrices) == {"1.weight"}
    assert names(model, others) == {"1.bias", "2.weight", "2.bias"}


def made(model: nn.Module, **arguments: float | str) -> MuonAdamW:
    groups = with_adamw_lr(matrices_and_others()(model), 0.02, 3e-4)
    return MuonAdamW([group.as_dict(0.02) for group in groups], **{"adamw_lr": 3e-4, **arguments})  # type: ignore[arg-type]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, step: Callable[[], object], *, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
        model.zero_grad()
        model(x).square().mean().backward()
        step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_updates_are_those_of_torchs_muon_and_adamw_apart() -> None:
    one, other = net(), net()
    train(one, made(one).step, seeds=range(5))
    matrices = [p for name, p in other.named_parameters() if name in ("0.weight", "2.weight")]
    rest = [p for name, p in other.named_parameters() if name not in ("0.weight", "2.weight")]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(rest, lr=0.02 * (3e-4 / 0.02), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    updates: list[torch.optim.Optimizer] = [muon, adamw]
    train(other, lambda: [optimizer.step() for optimizer in updates], seeds=range(5))
    assert equal(one, other)


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy"])
def test_a_restored_or_copied_optimizer_goes_on_bit_for_bit_and_obeys_its_groups(copied: str) -> None:
    one = net()
    optimizer = made(one)
    train(one, optimizer.step, seeds=range(3))
    if copied == "state_dict":
        other = copy.deepcopy(one)
        second = made(other)
        second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        other, second = copy.deepcopy((one, optimizer))
    for each, model in ((optimizer, one), (second, other)):
        each.param_groups[0]["lr"] *= 0.5
        each.param_groups[1]["lr"] *= 0.25
        train(model, each.step, seeds=range(3, 6))
    assert equal(one, other)
    for group in second.param_groups:
        group["lr"] = 0.0
    train(other, second.step, seeds=range(2))
    assert equal(one, other)


def test_adamw_lr_keeps_the_multipliers_of_the_groups() -> None:
    groups = [
        Group("a", [], lr_multiplier=0.5, hyperparameters={"use_muon": True}),
        Group("b", [], lr_multiplier=0.5),
        Group("c", [], hyperparameters={"use_muon": False}),
    ]
    lrs = [group.as_dict(0.02)["lr"] for group in with_adamw_lr(groups, 0.02, 3e-4)]
    assert lrs == pytest.approx([0.01, 1.5e-4, 3e-4])
    assert with_adamw_lr(groups, 0.02, None) == groups


def test_run_shows_both_rates_and_the_factor_of_muon_and_goes_on_bit_for_bit(program: Program) -> None:
    common = ["task=char_lm", "task.width=16", "task.depth=1", "task.context=16", "optimizer=muon", "train.duration=12"]
    done = program(*common, "optimizer.adamw_lr=1e-3", "train.eval_every=null")
    assert done.code == 0, done.err
    rule = "Muon moves a matrix by lr x sqrt(max(1, rows / columns)) (adjust_lr_fn=original)"
    assert rule in done.out
    learning_rate = json.loads((done.run / "result.json").read_text())["learning_rate"]
    assert learning_rate["rules"] == [rule]
    assert (learning_rate["optimizer.lr"], learning_rate["optimizer.adamw_lr"]) == (0.02, 1e-3)
    records = [r for r in read_records(done.run) if isinstance(r, StepRecord)]
    assert records[0].lrs is not None
    assert records[0].lrs["matrices"] / records[0].lrs["others"] == pytest.approx(20)
    part = program(*common, "optimizer.adamw_lr=1e-3", "train.eval_every=null", "train.max_seconds=1e-9")
    rest = program(f"resume.from={part.run}", "train.max_seconds=null")
    assert rest.code == 0, rest.err
    whole, resumed = (torch.load(run.run / "checkpoints/last.pt", weights_only=True)["model"] for run in (done, rest))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_rules_say_what_muon_takes_and_what_does_not_decay(program: Program) -> None:
    rules = "{hidden:{match:0.weight,use_muon:true},plain:{dims:1,weight_decay:0},rest:{match:'*'}}"
    common = ["train.duration=3", "train.eval_every=null", "optimizer=muon", "optimizer.adamw_lr=1e-3"]
    done = program(*common, *f"{RULES}={rules}".split())
    assert done.code == 0, done.err
    groups = torch.load(done.run / "checkpoints/last.pt", weights_only=True)["optimizer"]["param_groups"]
    seen = {group["name"]: (group["use_muon"], group["weight_decay"], group["initial_lr"]) for group in groups}
    approx = pytest.approx(1e-3)
    assert seen == {"hidden": (True, 0.01, 0.02), "plain": (False, 0, approx), "rest": (False, 0.01, approx)}


def test_only_muon_takes_the_key_use_muon(refuse: Callable[..., Refusal]) -> None:
    refusal = refuse("param_groups=patterns", "param_groups.rules={a:{match:'*',use_muon:true}}", "optimizer=adamw")
    assert "param_groups.rules.a.use_muon: must be left out with AdamW, which has none, got true" in refusal.err


def test_norms_and_biases_leave_weight_decay_when_asked() -> None:
    model = Net()
    matrices, others, vectors = matrices_and_others(no_decay_1d=True)(model)
    assert names(model, matrices) == names(model, matrices_and_others()(model)[0])
    assert (vectors.name, vectors.hyperparameters) == ("others_no_decay", {"use_muon": False, "weight_decay": 0.0})
    assert {parameter.ndim for parameter in vectors.parameters} == {1}
    assert all(parameter.ndim > 1 for parameter in others.parameters)


def test_dry_run_shows_the_factor_of_muon(program: Program) -> None:
    done = program("mode=check", "optimizer=muon_rms", "train.duration=5", "mode.steps=2")
    assert "Muon moves a matrix by lr x 0.2 sqrt(max(rows, columns)) (adjust_lr_fn=match_rms_adamw)" in done.out
    assert "warning" not in done.out + done.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "param_groups=all",
            "param_groups: must mark a group with use_muon for this optimizer, got all. Set param_groups=muon, or "
            "use_muon: true in a group.",
        ),
        (
            f"{RULES}={{a:{{match:'*',weight_decay:0}}}}",
            "param_groups: must mark a group with use_muon for this optimizer, got a. Set param_groups=muon, or "
            "use_muon: true in a group.",
        ),
        (
            f"{RULES}={{a:{{match:'*.weight',use_muon:sure}},rest:{{match:'*'}}}}",
            "param_groups.rules.a.use_muon: must be true or false, got 'sure'. "
            "Set param_groups.rules.a.use_muon=false.",
        ),
        (
            f"{RULES}={{a:{{match:'*.weight',use_muon:true,ns_steps:100}},rest:{{match:'*',weight_decay:0,eps:-1}}}}",
            "param_groups.rules.rest: must be accepted by MuonAdamW, which says: ValueError: Invalid epsilon value: "
            "-1. Change weight_decay, eps.",
        ),
        (
            f"{RULES}={{a:{{match:'*',adamw_lr:1}}}}",
            "param_groups.rules.a.adamw_lr: unknown key. Known keys here: adjust_lr_fn, betas, dims, eps, frozen, "
            "frozen_until, lr_multiplier, match, module, momentum, nesterov, ns_steps, schedule, use_muon, "
            "weight_decay.",
        ),
        (
            "task=quadratic",
            "param_groups: must find a hidden matrix for Muon, got none among 1 parameters. Set optimizer=adamw "
            "param_groups=all.",
        ),
        (
            "optimizer.adamw_lr=0",
            "optimizer.adamw_lr: must be a finite number > 0, got 0. Leave optimizer.adamw_lr out for its default.",
        ),
        (
            "optimizer.adjust_lr_fn=rms",
            "optimizer.adjust_lr_fn: must be one of original, match_rms_adamw, got 'rms'. Set "
            "optimizer.adjust_lr_fn=original.",
        ),
    ],
)
def test_what_muon_cannot_do_is_refused(refuse_row: Callable[..., Refusal], overrides: str, message: str) -> None:
    refusal = refuse_row("optimizer=muon", "tracking=off", *overrides.split())
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [f"  {message}"]
    assert refusal.left_behind == []
