"""A loss function of the page -> a sum and what to divide it by."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from runner.errors import Problem, TaskError
from runner.tasks.described import described, first_line
from runner.tasks.protocol import Batch

IGNORED = -100
"""Targets that torch's cross entropy and transformers models leave out."""
_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.functional.cross_entropy, nn.functional.nll_loss)


class SummedLoss:
    """A loss in the form of torch's, (outputs, targets) -> value, as a sum over the batch and its weight.

    sum / weight is what the loss gives by itself over the whole batch, also when the batch comes in ragged parts:

    - cross entropy and negative log likelihood: weight = targets that are not ignored, each times the weight of its
      class. Exact.
    - any other loss: weight = examples. Exact where the loss is a mean over examples of equal size.
    - `reduction: none` stands for the mean of what it gives, over targets that are not ignored.
    - `reduction: sum`: weight = examples, so that the learning rate does not depend on the batch size.

    Args:
        loss: a module or a function; its tensors move to the device of the outputs.
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        function = loss.func if isinstance(loss, functools.partial) else loss
        self.name = getattr(function, "__name__", type(function).__name__)
        self.takes_logits = isinstance(loss, nn.CrossEntropyLoss) or function is nn.functional.cross_entropy
        self.of_classes = isinstance(loss, _OF_CLASSES[:2]) or function in _OF_CLASSES[2:]
        settings = vars(loss) | dict(loss.named_buffers()) if isinstance(loss, nn.Module) else _bound(loss)
        self._reduction = settings.get("reduction")
        self._ignored = settings.get("ignore_index", IGNORED)
        class_weights: Tensor | None = settings.get("weight") if self.of_classes else None
        self.class_weights = None if class_weights is None else class_weights.detach().cpu()  # where `weight` counts
        self._device = torch.device("cpu")
        self._loss = _summing(loss) if self.of_classes and self._reduction == "mean" else loss
        state = self._loss.state_dict() if isinstance(self._loss, nn.Module) else {}
        self._state = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}

    def reset(self) -> None:
        """Put the buffers of the loss back to what they were when this was made."""
        if self._state and isinstance(self._loss, nn.Module):
            self._loss.load_state_dict(self._state, strict=False)

    def weight(self, targets: Any) -> float:
        """Return what the sum over these targets, on the CPU, is divided by; any number where they do not fit."""
        if not self.of_classes or self._reduction == "sum" or not isinstance(targets, Tensor):
            return rows(targets)
        if targets.is_floating_point():  # probabilities of the classes: nothing is ignored
            return targets.numel() // targets.shape[1] if targets.dim() > 1 else rows(targets)
        kept = targets != self._ignored
        if self.class_weights is None or self._reduction == "none":
            return int(kept.sum())
        try:
            return float(self.class_weights[targets[kept].long()].sum())
        except IndexError:  # a target that is no class, which the loss itself tells better
            return rows(targets)

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum, which can be differentiated.

        Raises:
            TaskError: the loss does not take these outputs and targets, whose types and shapes are named.
        """
        if isinstance(outputs, Tensor) and outputs.device != self._device:
            self._loss, self._device = _moved(self._loss, outputs.device), outputs.device
        try:
            value = self._loss(outputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:
            self.check_range(outputs, targets)
            raise TaskError(self._misfit(outputs, targets, error)) from error
        if not isinstance(value, Tensor):
            raise TaskError(Problem("task.loss", f"must return a tensor, got {described(value)}", "Change the loss"))
        if self.of_classes or self._reduction == "sum":
            return value.sum()
        return (value.mean() if value.dim() else value) * rows(targets)

    def _misfit(self, outputs: Any, targets: Any, error: BaseException) -> Problem:
        if isinstance(error, UserWarning):  # that torch would broadcast them, which `probe` makes an error
            rule = f"must get outputs and targets of one shape, got {described(outputs)} and {described(targets)}"
            return Problem("task.loss", rule, "Reshape what the model returns, or the targets")
        given = f"outputs {described(outputs)} and targets {described(targets)}"
        rule = f"must take {given}, but {self.name} says: {first_line(error)}"
        return Problem("task.loss", rule, "Change what the model returns, the targets or the loss")

    def check_range(self, outputs: Any, targets: Any) -> None:
        """Whether all targets are classes that the outputs have.

        Raises:
            TaskError: one is not.
        """
        fits = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() > 1
        if not self.of_classes or not fits or targets.is_floating_point():
            return
        classes = outputs.shape[1]
        wrong = targets[(targets != self._ignored) & ((targets < 0) | (targets >= classes))]
        if wrong.numel():
            rule = f"must get targets from 0 to {classes - 1} for outputs {described(outputs)}, got {int(wrong[0])}"
            fix = "Number the classes from 0, or give the model as many outputs as there are classes"
            raise TaskError(Problem("task.loss", rule, fix))


def own_weight(batch: Batch, target: str) -> float:
    """Return the weight of a batch, on the CPU, whose loss the model computes by itself.

    weight = integer labels that are not -100 where the batch is a mapping with labels, otherwise examples. Exact where
    the model's loss is a mean over the same. A causal language model shifts its labels and leaves out the first of
    each row: set that to -100.
    """
    labels = batch.get(target) if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        return int((labels != IGNORED).sum())
    return rows(batch)


def own_loss(outputs: Any, weight: float) -> Tensor:
    """Return the loss that a model computes by itself, a mean over `weight`, as a sum.

    Raises:
        TaskError: there is no loss in the outputs.
    """
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", outputs)
    if not isinstance(found, Tensor) or found.dim():
        rule = f"must be given for a model that returns no loss of its own, got null and outputs {described(outputs)}"
        raise TaskError(Problem("task.loss", rule, "Set task.loss._target_=torch.nn.CrossEntropyLoss"))
    return found * weight if weight else torch.zeros_like(found)


def rows(batch: Batch) -> int:
    """Return how many examples a batch has: the length of the first tensor in it, or of the batch."""
    leaves = tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    return int(sizes[0]) if sizes else max(1, len(leaves))


def _bound(loss: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of a function that are bound or have a default."""
    parameters = inspect.signature(loss).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def _moved(loss: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return a loss with its own tensors, such as the weights of the classes, on a device."""
    if isinstance(loss, nn.Module):
        return loss.to(device)
    if isinstance(loss, functools.partial):
        moved = {name: item.to(device) if isinstance(item, Tensor) else item for name, item in loss.keywords.items()}
        return functools.partial(loss.func, *loss.args, **moved)
    return loss


def _summing(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same loss with the sum in place of the mean."""
    if not isinstance(loss, nn.Module):
        return functools.partial(loss, reduction="sum")
    summing = copy.copy(loss)
    summing.reduction = "sum"  # type: ignore[assignment]
    return summing
