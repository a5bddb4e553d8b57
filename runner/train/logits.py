"""The meter of logits: how large those of attention are, and how far those of the output have drifted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from runner.errors import Problem, TaskError
from runner.tasks.described import first_line
from runner.tasks.logits import HasLogits
from runner.tasks.protocol import Batch
from runner.train.meters import Moment
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import autocast, to_device

ATTENTION, LOG_Z = "attention_logit/max", "log_z"
_OF_ATTENTION = 5  # measurements to one of attention, which costs one more forward pass
LOGIT_SIGNALS = frozenset({ATTENTION, LOG_Z})


@runtime_checkable
class ShowsAttention(Protocol):
    """A module that can tell its attention logits; a model of any package needs this one method in its attention.

    ```python
    class Attention(nn.Module):
        def forward(self, x): ...

        def attention_logits(self, x):  # takes what forward takes
            query, key = ...            # as in forward
            return query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    ```
    """

    def attention_logits(self, *inputs: Any, **named: Any) -> Tensor:
        """Return what the softmax of the attention is taken of, any shape; -inf where a key is masked."""
        ...


class Logits:
    """Measures logits over the last micro-batch of a step that is due, before its update.

    log_z: mean over examples, or tokens, of log sum exp of the output logits, where the task has some (`HasLogits`).
        They are those that the loss of the step was taken of.
    attention_logit/max: the largest absolute attention logit of all modules that show theirs (`ShowsAttention`), in
        one more forward pass, in evaluation mode, every fifth time. Generators and buffers are put back.

    Args:
        every: optimizer steps between two measurements.
    Raises:
        TaskError: a module fails to tell its logits.
    Source: Wortsman et al. 2023, arXiv:2309.14322, section 3.1.
    """

    name = "logits"

    def __init__(self, every: int) -> None:
        self._every = every
        self._has: tuple[bool, bool] | None = None  # logits of the task and of attention: asking takes longer than both

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Return what the model and the task show, if it is due."""
        if not moment.plan.measures_at(moment.step, self._every):
            return {}
        if self._has is None:
            self._has = isinstance(moment.task, HasLogits), shows_attention(moment.model)
        found = _log_z(moment) if self._has[0] else {}
        if self._has[1] and moment.plan.measures_at(moment.step, self._every, times=_OF_ATTENTION):
            found |= _attention(moment)
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Return {}."""
        return {}

    def forget(self) -> None:
        """Do nothing: nothing is kept from one step to the next."""

    def state_dict(self) -> dict[str, Any]:
        """Return {}: nothing is kept from one step to the next."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


def shows_attention(model: nn.Module) -> bool:
    """Whether a module of the model shows its attention logits."""
    return any(isinstance(module, ShowsAttention) for module in model.modules())


def _last_part(moment: Moment) -> Batch | None:
    """Return the last micro-batch that is not empty, which a task with worker processes has at hand still."""
    parts = moment.plan.accumulate
    batches = (moment.task.batch(moment.step, "train", (part, parts)) for part in reversed(range(parts)))
    return next((batch for batch in batches if batch is not None), None)


@torch.no_grad()
def _log_z(moment: Moment) -> dict[str, float]:
    logits = moment.task.logits(moment.outputs)  # type: ignore[attr-defined]
    if logits is None or logits.shape[-1] < 2:
        return {}
    return {LOG_Z: float(logits.detach().float().logsumexp(dim=-1).mean())}


@torch.no_grad()
def _attention(moment: Moment) -> dict[str, float]:
    batch = _last_part(moment)
    if batch is None:
        return {}
    weight = moment.task.weight(batch)
    with _unchanged(moment.model), _largest_logits(moment.model) as largest, autocast(moment.plan):
        moment.task.loss(moment.model, to_device(batch, moment.plan.device), weight)
    return {ATTENTION: float(torch.stack(largest).amax())} if largest else {}


@contextmanager
def _largest_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gather the largest absolute attention logit of every call of a module that shows them."""
    found: list[Tensor] = []

    def ask(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        try:
            logits = module.attention_logits(*inputs, **named)  # type: ignore[operator]
            found.append(logits.masked_fill(logits == -math.inf, 0).abs().amax().float())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            rule = f"must show its attention logits for what its forward takes, but it says: {first_line(error)}"
            fix = f"Mend {type(module).__name__}.attention_logits"
            raise TaskError(Problem("task.model", rule, fix)) from error

    showing = [module for module in model.modules() if isinstance(module, ShowsAttention)]
    hooks = [module.register_forward_pre_hook(ask, with_kwargs=True) for module in showing]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Have the model in evaluation mode inside; at the end modes, buffers and generators are what they were."""
    states = generator_states()
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        for buffer, before in buffers:
            buffer.copy_(before)
        restore_generators(states)
