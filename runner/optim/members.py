"""Where an optimizer holds a hyperparameter by the name that a schedule has for it."""

from __future__ import annotations

from collections.abc import Container

_BETAS = {"beta1": 0, "beta2": 1}


def place_of(hyperparameter: str, held: Container[str]) -> tuple[str, int | None]:
    """Return the key that holds a hyperparameter, and its place there where that is a pair.

    beta1 and beta2 are the members of "betas", and so is the momentum of what has betas and no momentum (beta1).

    Args:
        hyperparameter: "lr", "momentum", "beta1", "weight_decay" ...
        held: keys of a parameter group, or arguments of an optimizer.
    """
    if hyperparameter == "momentum" and "momentum" not in held and "betas" in held:
        return "betas", 0
    index = _BETAS.get(hyperparameter)
    return ("betas", index) if index is not None else (hyperparameter, None)
