"""Groups that are not trained before a given step: a function of the step, so that resume needs no state."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer


def thaw(optimizer: Optimizer, step: int) -> None:
    """Freeze the groups whose time has not come, train the others.

    A frozen parameter gets no gradient: it is in no gradient norm, has no optimizer state and does not decay.

    Args:
        optimizer: a group with "frozen_steps" is frozen before that step; one without is left alone.
        step: optimizer step, 0-based.
    """
    for group in optimizer.param_groups:
        if frozen_steps := group.get("frozen_steps", 0):
            is_trained = step >= frozen_steps
            # the first parameter stands for all: after the step that changes something there is no loop over them
            if group["params"][0].requires_grad is not is_trained:
                for parameter in group["params"]:
                    parameter.requires_grad_(is_trained)


def zero_while_frozen(factor: Callable[[int], float], frozen_steps: int) -> Callable[[int], float]:
    """Return the factor of a group that is frozen for a while: 0 until then, so that its recorded learning rate is."""
    return (lambda step: factor(step) if step >= frozen_steps else 0.0) if frozen_steps else factor
