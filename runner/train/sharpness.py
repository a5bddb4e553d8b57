"""How close a run is to where its optimizer stops being stable: the top eigenvalue of the preconditioned Hessian."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from runner.errors import Problem, TaskError
from runner.optim.preconditioner import Scaling, scaling, trained
from runner.stability import EDGE
from runner.train.lanczos import lanczos
from runner.train.meters import Moment
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import to_device

SHARPNESS = "sharpness"
COLD_ITERATIONS = 20  # products without a vector to start from
_STIR = 0.01  # share of a random direction in the vector that a measurement starts from


class Sharpness:
    """Meter of `stability/edge` and `sharpness`, both lower bounds of the true values.

    sharpness = lambda_max(P^-1 H) with H the Hessian of the mean training loss over the first examples of the run, the
    same at every measurement, and P the preconditioner of the next update (1 for SGD); coupled weight decay is a part
    of H. stability/edge = lr * sharpness / bound (`Scaling` for several groups): at 1 the update stops being stable.
    Before the first update of an adaptive optimizer both speak of the curvature along it, with the bound 2 / lr.
    Gradient clipping makes shorter steps than this assumes.

    Dropout is off, BatchNorm takes the statistics of the batch as in training, the forward pass is in the format of
    the weights. Weights, gradients, buffers, modes and generators are as before.

    Args:
        every: steps between measurements.
        examples: how many at least, where the training data has as many.
        iterations: products with the Hessian in a measurement; the first one takes at least `COLD_ITERATIONS`.
        batch_size: examples of an update.

    Attributes:
        is_first: whether the latest measurement is of the first update of an adaptive optimizer.
        measurements, seconds: how many were made for the records, and how long they took.
    """

    name = "sharpness"

    def __init__(self, *, every: int, examples: int = 128, iterations: int = 3, batch_size: int) -> None:
        self.every = every
        self.examples = examples
        self.iterations = iterations
        self.batch_size = batch_size
        self.is_first = False
        self.measurements = 0
        self.seconds = 0.0
        self._is_sound = False
        self._vector: Tensor | None = None
        self._batches: list[tuple[Any, float]] = []

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Return both signals where a measurement is due, {} elsewhere and where the loss is not finite."""
        if moment.step % self.every:
            return {}
        started = time.perf_counter()
        found = self.measure(moment)
        self.seconds += time.perf_counter() - started
        self.measurements += 1
        return found

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Return nothing."""
        return {}

    def measure(self, moment: Moment, *, lr: str = "lr") -> dict[str, float]:
        """Return both signals for the learning rate that the groups hold under a key; {} where nothing moves.

        Raises:
            TaskError: the gradient of the model cannot be differentiated once more.
        """
        try:
            return self._measure(moment, lr)
        except RuntimeError as error:
            if not re.search("derivative|differentiat", str(error)):
                raise
            raise _no_derivative(str(error).splitlines()[0]) from error

    def _measure(self, moment: Moment, lr: str) -> dict[str, float]:
        parameters = trained(moment.optimizer, lr=lr)
        if not parameters:
            return {}
        with _as_measured(moment.model), _generators_kept():
            gradients = self._gradients(moment, parameters)
            if not all(bool(gradient.isfinite().all()) for gradient in gradients):
                return {}
            if not self._is_sound:
                _check_graph(gradients)
                self._is_sound = True
            place = scaling(moment.optimizer, [gradient.detach() for gradient in gradients], lr=lr)
            self.is_first = any(place.firsts)
            if self.is_first:
                return self._first(gradients, place)
            start, iterations = self._start(sum(parameter.numel() for parameter in parameters), gradients[0])
            found = lanczos(_product(gradients, place), start, iterations=iterations)
        if not math.isfinite(found.value):
            return {}
        self._vector = found.vector
        return {EDGE: found.value, SHARPNESS: found.value / place.reference}

    def _first(self, gradients: list[Tensor], place: Scaling) -> dict[str, float]:
        """Judge the first update of a preconditioner by the curvature along it; at 1 it no longer lowers the loss.

        P is made of one gradient then, and its eigenvectors say only which coordinate has a gradient near 0. {} where
        some of the parameters have begun and others have not.
        """
        update = torch.cat([(g.detach() * s**0.5).flatten() for g, s in zip(gradients, place.scales, strict=True)])
        if not all(place.firsts) or not bool(update.any()):
            return {}
        found = lanczos(_product(gradients, place), update, iterations=1)
        return {EDGE: found.value, SHARPNESS: found.value / place.reference}

    def _start(self, size: int, like: Tensor) -> tuple[Tensor, int]:
        """Return where to start and how many products to take.

        A little of a random direction lets a measurement leave an eigenvector that is no longer the top one.
        """
        generator = torch.Generator().manual_seed(self.measurements)
        random = torch.randn(size, generator=generator, dtype=torch.float64).to(like.device, like.dtype)
        random /= random.norm()
        if self._vector is None or self._vector.numel() != size:
            return random, max(COLD_ITERATIONS, self.iterations)
        warm = self._vector.to(random)
        return warm / warm.norm() + _STIR * random, self.iterations

    def _gradients(self, moment: Moment, parameters: list[Tensor]) -> list[Tensor]:
        """Return the gradient of the mean loss, ready to be differentiated once more."""
        if not self._batches:
            self._batches = list(self._read(moment))
        total, weight = torch.zeros((), device=moment.plan.device), 0.0
        for batch, counted in self._batches:
            on_device = to_device(batch, moment.plan.device)
            total = total + moment.task.loss(moment.model, on_device, counted).total
            weight += counted
        return list(
            torch.autograd.grad(
                total / weight, parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    def _read(self, moment: Moment) -> Iterator[tuple[Any, float]]:
        """Yield the first examples of the run, in slices no larger than those that it trains with, and their weight."""
        task, examples = moment.task, min(self.examples, moment.task.examples.get("train", 1))
        most = -(-self.batch_size // moment.plan.accumulate)
        slices = -(-self.batch_size // -(-examples // -(-examples // most))) if task.examples else 1
        step, index, taken = 0, 0, 0.0
        while taken < examples:
            batch = task.batch(step, "train", (index, slices))
            if batch is not None and (counted := task.weight(batch)):
                yield batch, counted
            taken += self.batch_size / slices
            step, index = (step, index + 1) if index + 1 < slices else (step + 1, 0)

    def forget(self) -> None:
        """Do nothing: the vector is only where a measurement starts."""

    def state_dict(self) -> dict[str, Any]:
        """Return the vector to start from, and what was counted."""
        return {"vector": self._vector, "measurements": self.measurements, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; {} starts afresh."""
        self._vector = state.get("vector")
        self.measurements = state.get("measurements", 0)
        self.seconds = state.get("seconds", 0.0)


def _product(gradients: list[Tensor], place: Scaling) -> Callable[[Tensor], Tensor]:
    """Return vector -> (D^1/2 H D^1/2 + E) vector over all parameters, as one flat vector."""
    roots = [scale.sqrt() if isinstance(scale, Tensor) else scale**0.5 for scale in place.scales]
    curved = [(gradient, index) for index, gradient in enumerate(gradients) if gradient.requires_grad]
    sizes = [parameter.numel() for parameter in place.parameters]

    def product(vector: Tensor) -> Tensor:
        parts = [
            part.view_as(parameter).to(parameter.dtype)
            for part, parameter in zip(torch.split(vector, sizes), place.parameters, strict=True)
        ]
        weighted = [root * part for root, part in zip(roots, parts, strict=True)]
        images: list[Tensor] = [torch.zeros_like(part) for part in parts]
        if curved:
            outputs, directions = [gradient for gradient, _ in curved], [weighted[index] for _, index in curved]
            found = torch.autograd.grad(
                outputs,
                list(place.parameters),
                directions,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            images = [root * image for root, image in zip(roots, found, strict=True)]
        shifted = [image + shift * part for image, shift, part in zip(images, place.shifts, parts, strict=True)]
        return torch.cat([image.detach().flatten() for image in shifted])

    return product


def _check_graph(gradients: list[Tensor]) -> None:
    """Refuse functions that can be differentiated once: torch takes their second derivative to be 0 without a word."""
    seen, left = set[Any](), [gradient.grad_fn for gradient in gradients]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _no_derivative("a function in it is marked as once_differentiable")
        left += [following for following, _ in node.next_functions]


def _no_derivative(why: str) -> TaskError:
    rule = f"must be null for this model, whose gradient has no derivative: {why}"
    return TaskError(Problem("monitor.sharpness.every", rule, "Set monitor.sharpness.every=null"))


@contextmanager
def _as_measured(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside, and take attention that can be differentiated twice; leave no trace in the model."""
    modes = [(module, module.training) for module in model.modules()]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    model.eval()
    for norm in norms:
        norm.training = True
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def _generators_kept() -> Iterator[None]:
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)
