"""Up to which learning rate an optimizer is stable on a bowl, and how fast it leaves the bowl above that.

Along an eigenvector of the Hessian with eigenvalue h an optimizer whose preconditioner stands still makes the linear
update of `Update`. It converges if and only if both roots of a polynomial of second degree lie inside the unit circle,
and the first one to leave it is always the one that leaves at -1: the weights jump from side to side and grow.

Sources: Cohen et al. 2021, arXiv:2103.00065 (gradient descent, momentum); Cohen et al. 2022, arXiv:2207.14484
(adaptive); the other bounds follow from the polynomial, and all are compared with the optimizers of torch in the tests.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

EDGE = "stability/edge"
"""signal: learning rate x sharpness / bound, 1 where an update stops being stable"""


class Update(NamedTuple):
    """A linear update with a momentum buffer m, for a gradient g.

    m <- memory * m + intake * g;  w <- (1 - lr * decoupled decay) * w - lr * (direct * g + through * m)

    For an adaptive optimizer g is the gradient divided by its preconditioner.
    """

    memory: float = 0.0
    intake: float = 0.0
    direct: float = 0.0
    through: float = 0.0

    @property
    def gain(self) -> float:
        """What an update makes of a gradient that changes its sign at every step.

        direct + through * intake / (1 + memory)
        """
        return self.direct + self.through * self.intake / (1 + self.memory)

    @property
    def first_gain(self) -> float:
        """What the very first update makes of a gradient, with nothing in the buffer: direct + through * intake."""
        return self.direct + self.through * self.intake

    def largest_lr(self, curvature: float, *, decay: float = 0.0, decoupled: bool = False) -> float:
        """Return the learning rate above which an update along an eigenvector grows without end.

        2 / (gain * (h + w)) with coupled decay w, 2 / (gain * h + w) with decoupled decay.

        Args:
            curvature: h, eigenvalue of the (preconditioned) Hessian; > 0.
            decay: w, weight decay; for an adaptive optimizer with coupled decay divided by its preconditioner.
            decoupled: whether the decay acts on the weights, not on the gradient.
        """
        return 2 / (self.gain * curvature + decay if decoupled else self.gain * (curvature + decay))

    def growth(self, lr: float, curvature: float, *, decay: float = 0.0, decoupled: bool = False) -> float:
        """Return by which factor the weights grow per update in the long run: the spectral radius of the update.

        The larger root, by size, of z^2 - T z + D with h the curvature (plus coupled decay), w the decoupled decay,
        T = 1 + memory - lr * (w + (direct + through * intake) * h), D = memory * (1 - lr * (w + direct * h)).

        Args:
            lr, curvature, decay, decoupled: as for `largest_lr`.
        """
        h, w = (curvature, decay) if decoupled else (curvature + decay, 0.0)
        trace = 1 + self.memory - lr * (w + self.first_gain * h)
        determinant = self.memory * (1 - lr * (w + self.direct * h))
        root = cmath.sqrt(trace * trace - 4 * determinant)
        return max(abs(trace + root), abs(trace - root)) / 2


def steps_to_grow(factor: float, growth: float) -> float:
    """Return after how many updates the weights are `factor` times as large: ln F / ln growth; inf when they never are.

    Args:
        factor: F, > 1.
        growth: per update, as of `Update.growth`.
    """
    return math.log(factor) / math.log(growth) if growth > 1 else math.inf


def heavy_ball(momentum: float = 0.0, *, dampening: float = 0.0) -> Update:
    """Return the update of SGD, stable iff lr < (2 + 2b) / ((1 - dampening) h); 2 / h without momentum."""
    if momentum == 0:
        return Update(direct=1.0)
    return Update(memory=momentum, intake=1 - dampening, through=1.0)


def nesterov(momentum: float) -> Update:
    """Return the update of SGD with nesterov=True, stable iff lr < (2 + 2b) / ((1 + 2b) h)."""
    return Update(memory=momentum, intake=1.0, direct=1.0, through=momentum)


def moving_average(beta1: float, *, correction: float = 1.0) -> Update:
    """Return the update of Adam and its kin, stable iff lr < (2 + 2 b1) / ((1 - b1) h), 38 / h for b1 = 0.9.

    Args:
        beta1: decay per update of the first moment.
        correction: 1 - b1^t after t updates, which the first moment is divided by.
    """
    return Update(memory=beta1, intake=1 - beta1, through=1 / correction)


def nadam(beta1: float, *, direct: float, through: float) -> Update:
    """Return the update of NAdam, stable iff lr < (2 + 2 b1) / ((1 + b1 - 2 mu b1) h) once mu stands still.

    Args:
        beta1: decay per update of the first moment.
        direct: share of the gradient, 1 - mu in the long run.
        through: share of the first moment, mu in the long run.
    """
    return Update(memory=beta1, intake=1 - beta1, direct=direct, through=through)


def nadam_momentum(beta1: float, momentum_decay: float, step: float) -> float:
    """Return mu of NAdam at update t, from 1: b1 (1 - 0.96^(t * momentum_decay) / 2); b1 / 2 for ever without decay."""
    return beta1 * (1.0 - 0.5 * math.pow(0.96, step * momentum_decay))


def _sgd(group: Mapping[str, Any]) -> Update:
    momentum = float(group["momentum"])
    if momentum and group["nesterov"]:
        return nesterov(momentum)
    return heavy_ball(momentum, dampening=float(group["dampening"]))


def _adam(group: Mapping[str, Any]) -> Update:
    return moving_average(float(group["betas"][0]))


def _nadam(group: Mapping[str, Any]) -> Update:
    beta1 = float(group["betas"][0])
    mu = nadam_momentum(beta1, group["momentum_decay"], math.inf if group["momentum_decay"] else 0.0)
    return nadam(beta1, direct=1 - mu, through=mu)


UPDATES: Mapping[str, Callable[[Mapping[str, Any]], Update]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "NAdam": _nadam,
    "RAdam": _adam,
    "Adamax": _adam,
    "RMSprop": lambda group: heavy_ball(float(group["momentum"])),
    "Adagrad": lambda group: Update(direct=1.0),
}
"""class of torch.optim -> its update in the long run, from the hyperparameters of a parameter group"""


def bound_of(optimizer: str) -> Callable[[Mapping[str, Any]], Update] | None:
    """Return the entry of `UPDATES` for a class by its full name; None where no bound is known.

    Args:
        optimizer: module and name, such as "torch.optim.sgd.SGD".
    """
    package, _, name = optimizer.rpartition(".")
    return UPDATES.get(name) if package.startswith("torch.optim") else None
