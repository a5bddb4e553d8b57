"""Parameter groups: which parameter is where, with which multiplier, and what is said about rules that cannot be."""

import fnmatch
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from runner.errors import ConfigError
from runner.optim.depth import by_depth, layers
from runner.optim.groups import Group, Settings, make_groups
from runner.optim.head import freeze, head
from runner.optim.mup import mup
from runner.optim.names import covering
from runner.optim.patterns import Rule, patterns
from runner.tasks.mlp import mlp
from runner.tasks.transformer import Transformer
from tests.conftest import Refusal

ADAMW = Settings(torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.01})
SGD = Settings(torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01})


def transformer(**changes: Any) -> Transformer:
    sizes: dict[str, Any] = {"context": 8, "width": 16, "depth": 2, "heads": 4}
    return Transformer(11, **{**sizes, "dropout": 0.0, "norm": "pre", "qk_norm": False, **changes})


class Plain(nn.Module):
    """Layers that are in no list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.second = nn.Linear(3, 2)


class Staged(nn.Module):
    """As ResNets are: a stem, stages of blocks, a classifier; a list of one that holds all is looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.between = nn.Linear(4, 4)
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.pooled = nn.Sequential(nn.Linear(4, 4))
        self.fc = nn.Linear(4, 2)


def names(model: nn.Module, found: list[nn.Parameter]) -> list[str]:
    chosen = set(map(id, found))
    return [name for name, parameter in model.named_parameters() if id(parameter) in chosen]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: mlp(2, (3, 3), 2, dropout=0.5), {"0": ["0"], "3": ["3"], "6": ["6"]}),
        (Plain, {"first": ["first", "norm"], "second": ["second"]}),
        (
            transformer,
            {
                "stem": ["tokens", "positions"],
                "blocks.0": ["blocks.0"],
                "blocks.1": ["blocks.1"],
                "head": ["norm", "head"],
            },
        ),
        (
            Staged,
            {
                "stem": ["conv1", "bn1"],
                "layer1.0": ["layer1.0"],
                "layer1.1": ["layer1.1", "between"],
                "layer2.0": ["layer2.0", "layer2.1"],
                "layer2.3": ["layer2.3"],
                "head": ["pooled", "fc"],
            },
        ),
    ],
)
def test_depth_is_found_in_lists_of_layers(make: Callable[[], nn.Module], expected: dict[str, list[str]]) -> None:
    model = make()
    assert {label: covering(names(model, found), model) for label, found in by_depth(model).items()} == expected


@pytest.mark.slow
def test_depth_is_found_in_a_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    found = by_depth(transformers.ViTForImageClassification(config))
    middle = [label for label in found if label not in ("stem", "head")]
    assert list(found) == ["stem", *middle, "head"]
    assert [label[-1] for label in middle] == ["0", "1", "2"]


def test_layerwise_multiplies_from_the_head_down_and_unfreezes_in_that_order() -> None:
    groups = layers(total_steps=100, rate=0.5, unfreeze_every=10)(transformer())
    assert [(g.name, g.lr_multiplier, g.frozen_steps) for g in groups] == [
        ("head", 1.0, 0),
        ("blocks.1", 0.5, 10),
        ("blocks.0", 0.25, 20),
        ("stem", 0.125, 30),
    ]
    with pytest.raises(ConfigError, match=r"the run of 30 steps, got the last at 30\. Set .*unfreeze_every=9 or"):
        layers(total_steps=30, unfreeze_every=10)(transformer())


def test_no_decay_1d_goes_with_every_preset() -> None:
    for grouping in (
        layers(total_steps=9, no_decay_1d=True),
        head(no_decay_1d=True),
        freeze(frozen="blocks.0", no_decay_1d=True),
        mup(optimizer_settings=ADAMW, no_decay_1d=True),
    ):
        groups = make_groups(grouping, transformer(base_width=8))
        for group in groups:
            vectors = {p.ndim <= 1 for p in group.parameters}
            assert vectors == {group.name.endswith("_no_decay")}, group.name
            assert (group.hyperparameters.get("weight_decay") == 0.0) is group.name.endswith("_no_decay")


def test_head_is_the_last_matrix_unless_it_is_named() -> None:
    model = transformer()
    body, fresh = head()(model)
    assert names(model, fresh.parameters) == ["head.weight"]
    assert (body.lr_multiplier, fresh.lr_multiplier) == (1.0, 10.0)
    _, named = head(head=["blocks.1", "norm"], lr_multiplier=3.0)(model)
    assert covering(names(model, named.parameters), model) == ["blocks.1", "norm"]


def test_what_is_frozen_is_in_no_group_and_gets_no_gradient() -> None:
    model = mlp(2, (3,), 2, dropout=0.0)
    (trained,) = make_groups(freeze(), model)
    assert names(model, trained.parameters) == ["2.weight", "2.bias"]
    model(torch.ones(1, 2)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["2.weight", "2.bias"]
    with pytest.raises(ConfigError, match="must leave something to train from the first step"):
        make_groups(freeze(frozen="*"), model)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda p: [Group("a", p[:1])], r"must claim every trained parameter, got no group for 0\.bias"),
        (lambda p: [Group("a", p), Group("b", p[1:])], r"must claim a parameter once, got two groups for 0\.bias"),
        (lambda p: [Group("a", p[:1]), Group("a", p[1:])], "must give every group a name of its own, got two called a"),
        (lambda p: [Group("a", p, frozen_steps=3)], "must leave something to train from the first step, got none"),
    ],
)
def test_a_grouping_that_breaks_the_contract_is_refused(
    groups: Callable[[list[nn.Parameter]], list[Group]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_groups(lambda model: groups(list(model.parameters())), nn.Sequential(nn.Linear(2, 2)))


def test_plain_groups_come_first_so_that_the_recorded_rate_is_the_usual_one() -> None:
    rules: dict[str, Rule] = {
        "fast": {"match": "head", "lr_multiplier": 10.0},
        "late": {"match": "tokens", "frozen_until": 5},
        "usual": {"match": "norm", "weight_decay": 0.0},
        "rest": {"match": "*", "lr_multiplier": 1.0},
    }
    groups = make_groups(patterns(rules=rules, optimizer_settings=ADAMW, total_steps=9), transformer())
    assert [group.name for group in groups] == ["usual", "rest", "fast", "late"]


WORDS = ["blocks.0", "blocks.*.weight", "*.bias", "head", "tokens", "*norm*", "norm", "positions.weight", "[bn]*"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([None, 1, 2])), min_size=1, max_size=4))
def test_the_first_rule_that_fits_claims_a_parameter(drawn: list[tuple[str, int | None]]) -> None:
    model = transformer(depth=1)

    def expected(name: str, ndim: int) -> str:
        for number, (word, dims) in enumerate(drawn):
            above = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 2)]
            if (dims is None or dims == ndim) and any(fnmatch.fnmatchcase(path, word) for path in [name, *above]):
                return f"rule{number}"
        return "rest"

    wanted = {name: expected(name, p.ndim) for name, p in model.named_parameters()}
    rules: dict[str, Rule] = {}
    for number, (word, dims) in enumerate(drawn):
        if f"rule{number}" in wanted.values():
            rules[f"rule{number}"] = {"match": word, "dims": dims} if dims is not None else {"match": word}
    if "rest" in wanted.values():
        rules["rest"] = {"match": "*"}
    groups = make_groups(patterns(rules=rules, optimizer_settings=ADAMW, total_steps=9), model)
    assert {name: g.name for g in groups for name in names(model, g.parameters)} == wanted


def test_a_rule_names_modules_and_brings_hyperparameters_of_its_own() -> None:
    rules: dict[str, Rule] = {
        "embeddings": {"module": "Embedding", "lr_multiplier": 0.1, "betas": [0.8, 0.9], "frozen_until": 5},
        "norms": {"module": ["*Norm", "torch.nn.BatchNorm1d"], "weight_decay": 0.0},
        "still": {"match": "blocks.0", "frozen": True},
        "rest": {"dims": [1, 2]},
    }
    model = transformer()
    groups = {g.name: g for g in make_groups(patterns(rules=rules, optimizer_settings=ADAMW, total_steps=9), model)}
    assert list(groups) == ["norms", "rest", "embeddings"]
    assert groups["embeddings"].as_dict(1.0) | {"params": None} == {
        "params": None, "name": "embeddings", "lr": 0.1, "initial_lr": 0.1, "frozen_steps": 5, "betas": (0.8, 0.9),
    }  # fmt: skip
    assert groups["norms"].hyperparameters == {"weight_decay": 0.0}
    assert covering(names(model, groups["embeddings"].parameters), model) == ["tokens", "positions"]
    assert all("norm" in name for name in names(model, groups["norms"].parameters))
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("blocks.0") and "norm" not in name for name in frozen)


RULES = [
    ("{}", "rules: must have a rule, got none. Set param_groups.rules={all:{match:'*'}}."),
    ("3", "rules: must be sections by name of the group, got 3. "),
    ("{a:3}", "rules.a: must be a section with keys of its own, got 3. Set param_groups.rules.a={match:'*'}."),
    ("{a:{}}", "rules.a: must say what it claims by match, module or dims, got none. "),
    ("{a:{match:''}}", "rules.a.match: must be text that is not empty or a list that is not empty, each item text that is not empty, got ''. Set param_groups.rules.a.match='*'."),
    ("{a:{match:[null]}}", "rules.a.match: must be text that is not empty or a list that is not empty, each item text that is not empty, got [null]. Set param_groups.rules.a.match='*'."),
    ("{a:{match:4,dims:[]}}", "rules.a.dims: must be an integer >= 0 or a list of at least 2, each item an integer >= 0, got []. Set param_groups.rules.a.dims=[0,1]."),
    ("{a:{match:4,weight_decay:null}}", "rules.a.weight_decay: must be a finite number >= 0, got null. Set param_groups.rules.a.weight_decay=0."),
    ("{a:{match:4,schedule:cosin}}", "rules.a.schedule: must be a section with a _target_, got 'cosin'. Set +schedule@param_groups.rules.a.schedule=cosine in its place."),
    ("{a:{match:4,schedule:{_target_:tests.own_parts.lost_at_3}},rest:{match:'*'}}", "rules.a.schedule: must give a finite number >= 0 at every step, got nan at step 3. Mend it, or take another one."),
    ("{a:{match:4,schedule:{_target_:runner.schedules.tables.piecewise_constant,times:[0],values:[0]}},rest:{match:'*'}}", "rules.a.schedule: must be > 0 at a step of the run, got 0 at all 440, which changes no weight. "),
    ("{a:{mach:4}}", "rules.a.mach: unknown key, did you mean param_groups.rules.a.match? Known keys here: "),
    ("{a:{match:4,lr:0.1}}", "rules.a.lr: must be a factor on optimizer.lr, got 0.1. Set param_groups.rules.a.lr_multiplier=1 in its place."),
    ("{a:{match:4,lr_multiplier:0}}", "rules.a.lr_multiplier: must be a finite number > 0, got 0. "),
    ("{a:{match:4,lr_multiplier:inf}}", "rules.a.lr_multiplier: must be a finite number"),
    ("{a:{match:4,weight_decay:-1}}", "rules.a.weight_decay: must be a finite number >= 0, got -1. "),
    ("{a:{match:4,betas:[0.9,0.99]}}", "rules.a.betas: must be left out with SGD, which has none, got [0.9, 0.99]. Remove it, or set optimizer=adamw."),
    ("{a:{match:4,frozen_until:-1}}", "rules.a.frozen_until: must be a duration >= 0 such as 500 (steps)"),
    ("{a:{match:4,frozen_until:3ep},rest:{match:'*',schedule:{_target_:nowhere.at_all}}}", "rules.rest.schedule._target_: must be the dotted path of a class"),
    ("{a:{match:4,frozen:true,momentum:0.5},rest:{match:'*'}}", "rules.a.frozen: must stand without what is for training, got momentum. "),
    ("{a:{match:4,frozen_until:20ep},rest:{match:'*'}}", "rules.a.frozen_until: must end before the run of 440 steps does, got 440 steps. Set param_groups.rules.a.frozen_until=50%, or frozen=true in its place."),
    ("{a:{match:'*',frozen_until:50%}}", ": must leave something to train from the first step, got none. Unfreeze a group."),
    ("{a:{dims:[3,1]},rest:{match:'*'}}", "rules.a.dims: must be a number or [fewest, most], got [3, 1]. "),
    ("{a:{match:4,momentum:-1},rest:{match:'*'}}", "rules.a: must be accepted by SGD, which says: ValueError: Invalid momentum value: -1. Change momentum."),
    ("{a:{match:4}}", "rules: must claim every trained parameter, got no rule for 0.weight, 0.bias, 2.weight, 2.bias. End with"),
    ("{a:{match:4.wieght},rest:{match:'*'}}", "rules.a.match: must fit a parameter of the model, got '4.wieght', which fits none. Did you mean 4.weight?"),
    ("{a:{module:Linaer},rest:{match:'*'}}", "rules.a.module: must name a module that owns parameters of the model, got 'Linaer'. Did you mean Linear?"),
    ("{a:{match:4,dims:7},rest:{match:'*'}}", "rules.a.dims: must be dimensions of a parameter that fits match, got 7. Set param_groups.rules.a.dims=2."),
    ("{a:{dims:9},rest:{match:'*'}}", "rules.a.dims: must be dimensions of a parameter, got 9. Set param_groups.rules.a.dims=2."),
    ("{a:{match:4.bias,module:Linear,dims:[2,3]},rest:{match:'*'}}", "rules.a.dims: must be dimensions of a parameter that fits match and module, got [2, 3]. Set param_groups.rules.a.dims=1."),
    ("{a:{match:' '},rest:{match:'*'}}", "rules.a.match: must fit a parameter of the model, got ' ', which fits none. There are 0.weight"),
    ("{a:{match:4},b:{match:4.bias},rest:{match:'*'}}", "rules.b: must claim a parameter, got all 1 that fit claimed by a before. Put b above, or remove it."),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "message"), RULES)
def test_wrong_rules_are_refused_by_key(refuse: Callable[..., Refusal], rules: str, message: str) -> None:
    refusal = refuse("param_groups=patterns", f"param_groups.rules={rules}")
    assert refusal.code == 2
    assert f"  param_groups{'' if message.startswith(':') else '.'}{message}" in refusal.err
    assert refusal.left_behind == []


GROUPS = [
    ("freeze param_groups.frozen=*", "param_groups.frozen: must leave something to train from the first step, got '*'. Set param_groups.frozen=null, which leaves the head."),
    ("freeze param_groups.frozen=[]", "param_groups.frozen: must be null or text that is not empty or a list that is not empty, each item text that is not empty, got []. Leave param_groups.frozen out for its default."),
    ("head param_groups.head=zzz", "param_groups.head: must fit a parameter of the model, got 'zzz', which fits none. There are 0.weight, 0.bias, 2.weight, 2.bias, 4.weight, 4.bias."),
    ("all param_groups._target_=os.getcwd", "param_groups: must make a function of the model, got str. Leave param_groups._target_ out, or see param_groups=all."),
    ("layerwise param_groups.rate=1.5", "param_groups.rate: must be a finite number > 0 and <= 1, got 1.5. Set param_groups.rate=0.75."),
    ("layerwise param_groups.rate=nan", "param_groups.rate: must be a finite number > 0 and <= 1, got nan. Set param_groups.rate=0.75."),
    ("unfreeze param_groups.unfreeze_every=50%", "param_groups.unfreeze_every: must unfreeze all 3 layers within the run of 440 steps, got the last at 440. Set param_groups.unfreeze_every=219 or less."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), GROUPS, ids=[overrides for overrides, _ in GROUPS])
def test_wrong_argument_of_a_preset_is_refused_with_the_fix(
    refuse: Callable[..., Refusal], overrides: str, message: str
) -> None:
    refusal = refuse(*f"param_groups={overrides}".split())
    assert (refusal.code, refusal.left_behind) == (2, [])
    assert refusal.err.splitlines()[1:] == [f"  {message}"]


def test_two_rules_for_a_parameter_are_an_error_in_strict_mode_only() -> None:
    rules: dict[str, Rule] = {"a": {"match": "4"}, "b": {"match": "*"}}
    model = mlp(2, (3, 3), 2, dropout=0.0)
    loose = make_groups(patterns(rules=rules, optimizer_settings=SGD, total_steps=9), model)
    assert names(model, loose[0].parameters) == ["4.weight", "4.bias"]
    strict = patterns(rules=rules, optimizer_settings=SGD, total_steps=9, strict=True)
    message = r"param_groups.rules: .*got two rules for 4\.weight \(a, b\), 4\.bias \(a, b\)\. Narrow one of them"
    with pytest.raises(ConfigError, match=message):
        strict(model)


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        (ADAMW, {"0.weight": 1.0, "0.bias": 1.0, "2.weight": 0.25, "2.bias": 1.0, "4.weight": 0.25, "4.bias": 1.0}),
        (SGD, {"0.weight": 4.0, "0.bias": 4.0, "2.weight": 1.0, "2.bias": 4.0, "4.weight": 0.25, "4.bias": 1.0}),
    ],
)
def test_mup_multipliers_are_those_of_table_3(settings_: Settings, expected: dict[str, float]) -> None:
    model = mlp(5, (16, 16), 3, dropout=0.0)
    groups = make_groups(mup(optimizer_settings=settings_, base=lambda: mlp(5, (4, 4), 3, dropout=0.0)), model)
    assert {name: g.lr_multiplier for g in groups for name in names(model, g.parameters)} == expected
    for group in groups:  # what an update takes off a weight stays the same
        assert group.hyperparameters.get("weight_decay", 0.01) * group.lr_multiplier == pytest.approx(0.01)


@pytest.mark.parametrize(("kind", "decay"), [(torch.optim.AdamW, 0.01), (torch.optim.Adam, 0.0)])
def test_mup_keeps_the_decay_that_the_page_leaves_to_the_class(kind: type[torch.optim.Optimizer], decay: float) -> None:
    model = mlp(5, (16, 16), 3, dropout=0.0)
    split = mup(optimizer_settings=Settings(kind, {"lr": 0.1}), base=lambda: mlp(5, (4, 4), 3, dropout=0.0))
    for group in kind([group.as_dict(0.1) for group in split(model)], lr=0.1).param_groups:  # type: ignore[call-arg]
        assert group["weight_decay"] * group["initial_lr"] == pytest.approx(0.1 * decay)


def test_mup_knows_embeddings_and_transposed_weights() -> None:
    def model(width: int) -> nn.Module:
        up = nn.ConvTranspose2d(width, 3, 2)
        return nn.Sequential(nn.Embedding(7, width), nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 1), up)

    groups = {g.name: g for g in mup(optimizer_settings=ADAMW, base=lambda: model(2))(model(8))}
    wide = model(8)
    found = {name: names(wide, [wide.get_parameter(n) for n in _like(wide, group)]) for name, group in groups.items()}
    assert found["input"] == ["0.weight", "1.weight"]
    assert (found["hidden"], groups["hidden"].lr_multiplier) == (["2.weight"], 0.25)
    assert (found["output"], groups["output"].lr_multiplier) == (["3.weight"], 0.25)


def _like(model: nn.Module, group: Group) -> list[str]:
    shapes = {tuple(p.shape) for p in group.parameters}
    return [name for name, p in model.named_parameters() if tuple(p.shape) in shapes]


def test_mup_changes_nothing_at_the_base_width() -> None:
    torch.manual_seed(0)
    usual = transformer()
    torch.manual_seed(0)
    based = transformer(base_width=16)
    state = torch.get_rng_state()
    groups = mup(optimizer_settings=ADAMW)(based)
    assert torch.equal(state, torch.get_rng_state()), "the base model draws no number of the run"
    assert {g.lr_multiplier for g in groups} == {1.0}
    x = torch.arange(8)[None]
    for one, other in zip(usual.parameters(), based.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(usual(x), based(x))


def test_mup_starts_embeddings_alike_and_the_output_smaller_at_every_width() -> None:
    torch.manual_seed(0)
    narrow, wide = (transformer(width=width, base_width=32) for width in (32, 512))
    assert wide.tokens.weight.std().item() == pytest.approx(narrow.tokens.weight.std().item(), rel=0.15)
    ratio = wide.head.weight.std().item() / narrow.head.weight.std().item()
    assert ratio == pytest.approx(1 / 16, rel=0.15)
