"""Any model, any map-style data set, any loss and metrics, named by their dotted paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.utils.data import Dataset

from runner.errors import ConfigError, Problem, TaskError
from runner.tasks.datasets import find_fault, fingerprint_of, reader_of, split_members, targets_in_memory
from runner.tasks.described import described, first_line
from runner.tasks.items import Rows
from runner.tasks.losses import SummedLoss, own_loss, own_weight, rows
from runner.tasks.protocol import Batch, LossSum, Scores
from runner.tasks.scores import LossOnly, MetricScores
from runner.tasks.split import Agenda, Split
from runner.tasks.tensors import entropy

SPLITS = ("train", "val", "test")


class Supervised:
    """Train any module on any map-style data set.

    A batch that is a tuple or list is (inputs ..., targets): the model gets the inputs. One that is a mapping goes to
    the model by keyword, without `target`, which the loss gets. Where the outputs have logits, loss and metrics take
    these. Without a loss the model gets the whole batch and returns its loss by itself, as transformers models do.

    Args:
        model: makes the model, anew for every run.
        train: data set with `__len__` and `__getitem__`.
        val: the same, for validation; None takes a share of `train`.
        test: the same, for tests; None is none.
        val_fraction: share of `train` that validates where `val` is None, the same for every seed; 0 is none.
        loss: (outputs, targets) -> value; None is the model's own.
        metrics: name -> makes a metric of torchmetrics that gives one number.
        target: key of the targets in a batch that is a mapping.
        collate: items -> batch; None is torch's `default_collate`.
        workers: processes that read ahead, a split; 0 reads in the training process. A plain `TensorDataset` is
            indexed as a whole and needs none.
        pin_memory: page-locked batches, faster to reach a CUDA device.
        batch_size: examples per optimizer step, from the run.
        seed: order of the data and randomness of its items, from the run.
    Raises:
        ConfigError: a data set cannot be used, or there are more workers than cores.
    """

    remarks: Sequence[str] = ()

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        model: Callable[[], nn.Module],
        train: Dataset[Any],
        val: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1,
        loss: Callable[..., Any] | None = None,
        metrics: Mapping[str, Callable[[], Any]] | None = None,
        target: str = "labels",
        collate: Callable[..., Any] | None = None,
        workers: Annotated[int, Ge(0)] = 0,
        pin_memory: bool = False,
    ) -> None:
        data = {name: given for name, given in zip(SPLITS, (train, val, test), strict=True) if given is not None}
        problems = [*filter(None, (find_fault(f"task.{name}", given) for name, given in data.items()))]
        members: Mapping[str, Tensor] = {}
        if not problems:
            try:
                members = split_members(data, val_fraction)
            except ConfigError as error:
                problems += error.problems
        problems += _too_many(workers)
        problems += [
            _no_function(name, part)
            for name, part in (("loss", loss), ("collate", collate))
            if part and not callable(part)
        ]
        self._metrics = dict(metrics or {})
        self.goals, wrong = _goals(self._metrics)
        if problems or wrong:
            raise ConfigError([*problems, *wrong])
        self._model = model
        self._model_name = "it"
        self._loss = SummedLoss(loss) if loss is not None else None
        self._target = target
        readers = {
            name: reader_of(given, f"task.{name}", (seed, SPLITS.index(name)), collate) for name, given in data.items()
        }
        readers.setdefault("val", readers["train"])
        self.examples = {name: len(those) for name, those in members.items()}
        self.digest = fingerprint_of(data, members, collate)
        self._known_targets = targets_in_memory(readers["train"])
        self.prior_entropy = self._find_prior_entropy(members["train"])
        self._splits = {
            name: Split(
                readers[name],
                Agenda(those, batch_size=batch_size, seed=seed if name == "train" else None),
                workers=0 if isinstance(readers[name], Rows) else workers,
                pin=pin_memory,
            )
            for name, those in members.items()
        }

    def model(self) -> nn.Module:
        """Return a freshly made model.

        Raises:
            ConfigError: it cannot be made, or is no module.
        """
        if self._loss is not None:
            self._loss.reset()  # what it has learned came from another run
        made: Any = self._model()
        if not isinstance(made, nn.Module):
            rule = f"must make a torch.nn.Module, got {type(made).__name__}"
            raise ConfigError([Problem("task.model._target_", rule, "Name a class of modules")])
        self._model_name = type(made).__name__
        return made

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Batch | None:
        """Return a slice of a batch as `collate` makes it, None when it is empty.

        Raises:
            TaskError: an item cannot be read, or a worker process died.
        """
        return self._splits[split].batch(step, part)

    def weight(self, batch: Batch) -> float:
        """Return what the loss of a batch is divided by: see `SummedLoss`, and `own_weight` for a model's own loss.

        Raises:
            TaskError: the batch holds no targets where the loss takes some.
        """
        if self._loss is None:
            return own_weight(batch, self._target)
        return self._loss.weight(self._divided(batch)[1])

    def loss(self, apply: Callable[..., Any], batch: Batch, weight: float) -> LossSum:
        """Return the summed loss.

        Raises:
            TaskError: the batch does not fit the model, or its outputs do not fit the loss.
        """
        if self._loss is None:
            outputs = self._applied(apply, batch)
            total = own_loss(outputs, weight)
        else:
            inputs, targets = self._divided(batch)
            outputs = self._applied(apply, inputs)
            predictions = _predictions(outputs)
            if self._known_targets is not None:
                self._loss.check_range(predictions, self._known_targets)
                self._known_targets = None
            total = self._loss(predictions, targets)
        return LossSum(total, rows(batch), outputs)

    def logits(self, outputs: Any) -> Tensor | None:
        """Return what the cross entropy takes a softmax of, or the logits beside a model's own loss."""
        found = _predictions(outputs)
        if not isinstance(found, Tensor) or found.dim() == 0 or (found is outputs and self._loss is None):
            return None
        if self._loss is None:
            return found
        return found.movedim(min(1, found.dim() - 1), -1) if self._loss.takes_logits else None

    def close(self) -> None:
        """End the worker processes."""
        for split in self._splits.values():
            split.close()

    def scores(self) -> Scores:
        """Return fresh metrics."""
        if not self._metrics:
            return LossOnly()
        fresh = {name: make() for name, make in self._metrics.items()}
        return MetricScores(fresh, lambda outputs, batch: (_predictions(outputs), self._divided(batch)[1]))

    def _applied(self, apply: Callable[..., Any], inputs: Any) -> Any:
        try:
            if isinstance(inputs, Mapping):
                return apply(**inputs)
            return apply(*inputs) if isinstance(inputs, tuple | list) else apply(inputs)
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:
            rule = f"must take inputs {described(inputs)}, but {self._model_name} says: {first_line(error)}"
            raise TaskError(Problem("task.model", rule, "Change the model, or what the data set returns")) from error

    def _divided(self, batch: Batch) -> tuple[Any, Any]:
        """Return what the model gets and what the loss and the metrics get."""
        if isinstance(batch, Mapping):
            if self._target not in batch:
                rule = f"must be a key of the batch ({', '.join(map(str, batch))}), got {self._target!r}"
                raise TaskError(Problem("task.target", rule, "Set task.target to the key of the targets"))
            return {key: value for key, value in batch.items() if key != self._target}, batch[self._target]
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            rule = f"must give items (inputs ..., target) or mappings, got batches {described(batch)}"
            raise TaskError(Problem("task.train", rule, "Set task.loss=null for a model that returns its own loss"))
        return batch[:-1], batch[-1]

    def _find_prior_entropy(self, members: Tensor) -> float | None:
        """Return the entropy of the classes where all of them are known, None otherwise."""
        loss, targets = self._loss, self._known_targets
        if loss is None or not loss.of_classes or loss.class_weights is not None or targets is None:
            return None
        is_plain = targets.dim() == 1 and not targets.is_floating_point()
        return entropy(targets[members]) if is_plain else None


def _predictions(outputs: Any) -> Any:
    """Return the logits where a model returns them among other things."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)


def _no_function(name: str, part: Any) -> Problem:
    rule = f"must name a function, or a class whose objects can be called, got one that makes {type(part).__name__}"
    return Problem(f"task.{name}._target_", rule, "Name another")


def _too_many(workers: int) -> list[Problem]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers <= cores:
        return []
    rule = f"must be at most the {cores} cores of this machine, got {workers}"
    return [Problem("task.workers", rule, f"Set task.workers={cores} or less")]


def _goals(metrics: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Literal["min", "max"]], list[Problem]]:
    """Return metric -> whether less or more is better, and what is no metric; one that does not say wants more."""
    goals: dict[str, Literal["min", "max"]] = {"loss": "min"}
    problems: list[Problem] = []
    for name, make in metrics.items():
        from torchmetrics import Metric

        metric = make()
        if name == "loss":
            problems.append(
                Problem("task.metrics.loss", "must not be called loss, which is there already", "Rename it")
            )
        elif not isinstance(metric, Metric):
            rule = f"must be a metric of torchmetrics, got {described(metric)}"
            problems.append(Problem(f"task.metrics.{name}._target_", rule, "Name a class of torchmetrics"))
        else:
            goals[name] = "min" if metric.higher_is_better is False else "max"
    return goals, problems
