"""What cannot be trained in lanes is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.build import Experiment, build
from runner.job import checked
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane
from runner.lanes.refusal import why_not
from runner.train.checkpoint import Checkpoints
from tests.lanes import make
from tests.own_parts import Net
from tests.pages import composed

POINTS = ["task=supervised", "++task.train._target_=tests.own_parts.Points", "train.duration=30"]


def make_of(model: str) -> Experiment:
    return build(checked(composed(*POINTS, f"++task.model._target_={model}")))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rnn(x[:, None])[0][:, -1])
        return found


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.layers[0](x).mean() > 0 else -x)


class Cumulative(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(1, nn.BatchNorm1d(16, momentum=None))


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.layers[0])


class Spectral(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.layers[0])


class ByData(Net):
    """Works for lanes with one batch, but not for those of other seeds."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


class Rebound(Net):
    """Counts in a buffer that is another one each time."""

    calls: Tensor

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout=dropout)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x)


class Dropping(Rebound):
    def __init__(self) -> None:
        super().__init__(dropout=0.5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            Recurrent,
            r"task.model: LSTM \(rnn\) cannot be trained in lanes: torch has no batched form of aten::lstm",
        ),
        (
            Normed,
            r"task.model: _WeightNorm \(layer.*\) cannot be trained in lanes: torch has no batched form of aten::_w",
        ),
        (Branching, r"task.model: Branching \(the model\) cannot be trained in lanes: RuntimeError: vmap: It looks"),
        (Cumulative, r"task.model: BatchNorm1d \(layers.1\) cannot be trained in lanes: RuntimeError: vmap: It looks"),
        (
            Hooked,
            r"task.model: Linear \(layers.0\) cannot be trained in lanes: torch has no batched form of aten::",
        ),
        (Spectral, r"task.model: _SpectralNorm \(layers.*\) cannot be trained in lanes: torch has no batched form of"),
        (
            ByData,
            r"task.model: ByData \(the model\) cannot be trained in lanes: RuntimeError: vmap: It looks like .* flow\.",
        ),
        (Rebound, r"task.model: must change its buffer calls in place, as .copy_\(\) does, to be trained in lanes"),
        (Dropping, r"task.model: must change its buffer calls in place, as .copy_\(\) does, to be trained in lanes"),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused_by_name(model: type[nn.Module], reason: str) -> None:
    experiment = make_of(f"tests.test_lanes_refused.{model.__name__}")
    before, generator = {k: v.clone() for k, v in experiment.model.state_dict().items()}, torch.get_rng_state()
    found = why_not([experiment.parts()])
    assert found is not None
    assert found.endswith("Set sweep.backend=sequential or sweep.backend=processes.")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compile": True}, "train.compile: must be false for lanes, got true"),
        ({"precision": "fp16"}, "train.precision: must be fp32 or bf16 for lanes, as fp16 scales the loss of each run"),
        ({"watch_every": 5}, "train.watch_every: must be 1 for lanes, which look at all losses at once, got 5"),
    ],
)
def test_a_plan_that_cannot_be_batched_is_refused(changes: dict[str, Any], reason: str) -> None:
    parts = make().parts()
    found = why_not([{**parts, "plan": replace(parts["plan"], **changes)}])
    assert found is not None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.accumulate=2", "train.accumulate: must be the same in all lanes, got 1 and 2"),
        ("task.dropout=0.1", "task: must make the same model in all lanes, but only one of them has 3"),
        ("task.hidden=[8]", "task: must make the same model in all lanes, but 0."),
    ],
)
def test_experiments_that_are_not_alike_are_refused(override: str, reason: str, tmp_path: Path) -> None:
    experiments = [make(), make(override)]
    found = why_not([experiment.parts() for experiment in experiments])
    assert found is not None
    assert found.startswith(reason)
    lanes = [Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None) for i, e in enumerate(experiments)]
    first, second = fit_lanes(lanes, width=2)
    assert isinstance(second, Exception)
    assert not isinstance(first, Exception)
