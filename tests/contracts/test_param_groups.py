"""Every preset claims every trained parameter of every task exactly once, and trains."""

import pytest

from runner.errors import ConfigError
from tests.contracts.conftest import Make, options
from tests.contracts.test_optimizer import advance

TASKS = ["task=digits", "task=digits task.model=cnn", "task=char_lm task.depth=2 task.width=16", "task=quadratic"]
REFUSED = {
    ("head", "task=quadratic"): "param_groups.head: must be given for a model without a matrix",
    ("freeze", "task=quadratic"): "param_groups.frozen: must be given for a model without a matrix",
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
