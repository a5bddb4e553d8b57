"""A pass of all lanes, recorded once and played again: the operations without autograd, vmap and modules around them.

That leaves out about 0.7 ms a pass, as long as four lanes of the digits MLP take (`experiments/lanes/README.md`). What
is played is what was recorded, so it is done only for models and tasks that are known to compute the same at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils._pytree import TreeSpec, tree_flatten

from runner.tasks.protocol import Task
from runner.train.seeding import generator_states, restore_generators

_TASKS = {f"runner.tasks.{name}" for name in ("char_lm", "digits", "quadratic", "tabular")}  # modules of their classes
_MODULES = ("torch.nn.modules.", "runner.tasks.")
_MOST_MODULES = 24  # to record a pass takes about 10 ms each
EAGER_PASSES = 48  # before it is worth that: to record a pass takes as long as playing it saves in about 80


@dataclass
class Told:
    """What a pass tells beside tensors.

    Attributes:
        examples: in the batch of one lane.
        reached: names of the parameters that have gradients.
        leaves, structure: outputs of the model, tensors among them to be replaced.
    """

    examples: int = 0
    reached: list[str] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    structure: TreeSpec = field(default_factory=lambda: tree_flatten(())[1])


Pass = Callable[[Sequence[Tensor], Told], list[Tensor]]
"""a list of tensors -> a list of tensors, and what else there is to tell"""


class Recordings:
    """The passes of one group of lanes, by all that they depend on beside the numbers in their tensors.

    Args:
        eager_passes: of a kind before it is recorded; None as many as make it worth that.
    """

    def __init__(self, eager_passes: int | None = None) -> None:
        self._eager_passes = EAGER_PASSES if eager_passes is None else eager_passes
        self._uses: dict[Hashable, int] = {}
        self._made: dict[Hashable, tuple[GraphModule, Told]] = {}
        self._are_allowed: bool | None = None

    def allow(self, task: Task, model: nn.Module) -> bool:
        """Whether passes of a task and its model may be played: they hold nothing that changes from call to call."""
        if self._are_allowed is None:
            modules = list(model.modules())
            is_small = len(modules) <= _MOST_MODULES and not any(True for _ in model.buffers())
            self._are_allowed = is_small and type(task).__module__ in _TASKS and all(map(_is_constant, modules))
        return self._are_allowed

    def play(self, key: Hashable, pass_: Pass, given: Sequence[Tensor]) -> tuple[list[Tensor], Told]:
        """Return what a pass makes of tensors: played, where it has been made often enough to be recorded."""
        if key not in self._made:
            uses = self._uses[key] = self._uses.get(key, 0) + 1
            told = Told()
            if uses <= self._eager_passes:
                return pass_(given, told), told
            self._made[key] = _recorded(lambda *tensors: pass_(tensors, told), given), told
        recorded, told = self._made[key]
        with torch.no_grad():
            return recorded(*given), told


def _recorded(pass_: Callable[..., list[Tensor]], given: Sequence[Tensor]) -> GraphModule:
    states = generator_states()
    recorded = make_fx(pass_)(*given)
    restore_generators(states)
    for node in list(recorded.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            recorded.graph.erase_node(node)
    recorded.graph.set_codegen(CodeGen())
    recorded.recompile()
    return recorded


def _does_nothing(node: Node) -> bool:
    """Whether a node gives its tensor on as it is: the call takes as long as a small product."""
    operations = torch.ops.aten
    if node.target is operations.detach.default:  # of no use without gradients
        return True
    if node.target is operations.permute.default:
        return list(node.args[1]) == list(range(len(node.args[1])))  # type: ignore[arg-type]
    if node.target in (operations.view.default, operations.expand.default):
        of, made = (each.meta.get("val") for each in (node.args[0], node))  # type: ignore[union-attr]
        return of is not None and made is not None and of.shape == made.shape and of.stride() == made.stride()
    return False


def _is_constant(module: nn.Module) -> bool:
    hooks: Any = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return f"{type(module).__module__}.".startswith(_MODULES) and not any(hooks)
