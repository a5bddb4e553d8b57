"""The largest eigenvalue of a symmetric matrix that is known by its products only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Extreme(NamedTuple):
    """The largest eigenvalue found, never above the true one, and its unit vector."""

    value: float
    vector: Tensor


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int) -> Extreme:
    """Return the largest (not the largest by size) Ritz value of a symmetric matrix, with full re-orthogonalisation.

    Args:
        product: vector -> matrix times vector.
        start: vector, shape (n,), not zero.
        iterations: products; as many vectors of the size of `start` are held.
    """
    vector = start / start.norm()
    basis, diagonal, beside = [vector], list[float](), list[float]()
    for left in reversed(range(iterations)):
        image = product(vector)
        diagonal.append(float(vector @ image))
        if not left or not math.isfinite(diagonal[-1]):
            break
        for _ in range(2):  # once leaves the rounding of the first subtraction
            for earlier in basis:
                image = image - (earlier @ image) * earlier
        norm = float(image.norm())
        if not norm > torch.finfo(start.dtype).eps * max(map(abs, diagonal)):
            break  # the space is closed: nothing is left to find from this start
        vector = image / norm
        basis.append(vector)
        beside.append(norm)
    if not math.isfinite(diagonal[-1]):
        return Extreme(math.nan, start)
    size = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for index, value in enumerate(beside[: size - 1]):
        matrix[index, index + 1] = matrix[index + 1, index] = value
    values, vectors = torch.linalg.eigh(matrix)
    parts = zip(vectors[:, -1].tolist(), basis, strict=False)
    return Extreme(float(values[-1]), sum((share * one for share, one in parts), torch.zeros_like(start)))
