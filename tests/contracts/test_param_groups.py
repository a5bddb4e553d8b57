"""Every preset claims every trained parameter of every task exactly once, and trains."""

import pytest
import torch

from runner.errors import ConfigError
from tests.contracts.conftest import Make, options
from tests.contracts.test_optimizer import advance

TASKS = ["task=digits", "task=digits task.model=cnn", "task=char_lm task.depth=2 task.width=16", "task=quadratic"]
LAYERS = ["tokens", "blocks.0.attention", "blocks.0.feed_forward", "blocks.1.attention", "blocks.1", "head"]
REFUSED = {
    ("head", "task=quadratic"): "param_groups.head: must be given for a model without a matrix",
    ("freeze", "task=quadratic"): "param_groups.frozen: must be given for a model without a matrix",
    ("muon", "task=quadratic"): "param_groups: must find a hidden matrix for Muon",
    ("muon", "task=digits task.model=cnn"): "param_groups: must find a hidden matrix for Muon",
    ("mup", "task=quadratic"): "param_groups.base: must be given for a model that declares no base width",
    ("mup", "task=digits task.model=cnn"): "param_groups.base: must differ from the model in its widths only",
}


def declared(preset: str, task: str) -> list[str]:
    """Overrides that build a preset on a task."""
    more: list[str] = []
    if preset == "mup" and "digits" not in task:
        more = ["++param_groups.base=null", *(["++task.base_width=8"] if "char_lm" in task else [])]
    return [*task.split(), f"param_groups={preset}", "train.duration=40", "optimizer=adamw", *more]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", options("param_groups"))
def test_every_trained_parameter_is_claimed_once_or_the_preset_is_refused(make: Make, preset: str, task: str) -> None:
    if (preset, task) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[preset, task]):
            make(*declared(preset, task))
        return
    experiment = make(*declared(preset, task))
    claimed = [id(parameter) for group in experiment.optimizer.param_groups for parameter in group["params"]]
    assert sorted(claimed) == sorted(id(p) for p in experiment.model.parameters() if p.requires_grad)
    losses = advance(experiment, range(3))
    assert losses[1] != losses[0]


def moved(width: int, groups: str, make: Make) -> dict[str, float]:
    """Mean |change of the activations| of every layer after three steps."""
    declared = ["task=char_lm", "task.depth=2", "task.context=32", "train.batch_size=8", "train.duration=10"]
    declared += ["optimizer=adamw", "optimizer.lr=0.003", "warmup=none", "schedule=constant", f"task.width={width}"]
    base = ["task.base_width=64", "++param_groups.base=null"] if groups == "mup" else []
    experiment = make(*declared, f"param_groups={groups}", *base)
    windows = experiment.task.batch(99, "train")[0][:, :-1].long()  # type: ignore[index]

    def activations() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        hooks = [
            experiment.model.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: found.__setitem__(name, output)
            )
            for name in LAYERS
        ]
        with torch.no_grad():
            experiment.model(windows)
        for hook in hooks:
            hook.remove()
        return found

    before = activations()
    advance(experiment, range(3))
    return {name: (value - before[name]).abs().mean().item() for name, value in activations().items()}


@pytest.mark.slow
def test_with_mup_every_layer_moves_alike_at_widths_64_to_512_and_without_it_does_not(make: Make) -> None:
    """The coordinate check of Yang et al. 2022, arXiv:2203.03466 (coord_check in microsoft/mup)."""
    spreads = {}
    for groups in ("mup", "all"):
        at_width = [moved(width, groups, make) for width in (64, 128, 256, 512)]
        spreads[groups] = {name: max(a[name] for a in at_width) / min(a[name] for a in at_width) for name in LAYERS}
    assert max(spreads["mup"].values()) < 2
    assert spreads["all"]["blocks.0.feed_forward"] > 8
