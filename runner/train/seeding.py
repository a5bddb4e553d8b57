"""Random generators: set from one seed, saved and restored whole."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), Python and numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def make_deterministic(enabled: bool) -> None:
    """Make torch refuse operations without a deterministic form, on every device.

    Sums still differ between numbers of threads: fix `train.threads` for bit-equal repeats across machines.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch imports its compiler for this, which takes a second
    if torch.are_deterministic_algorithms_enabled() != enabled:
        torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = False


def generator_states() -> dict[str, Any]:
    """Return the states of all global generators, as tensors and numbers only: to pickle a list takes milliseconds."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": (version, torch.tensor(words), gauss),
        "numpy": (name, torch.tensor(keys.astype(np.int64)), *rest),  # type: ignore[union-attr]
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Set all global generators to saved states; a device that is not there is left out."""
    torch.set_rng_state(states["torch"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(_listed(words)), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(_listed(keys), dtype=np.uint32), *rest))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def torch_generators() -> list[torch.Tensor]:
    """Return the states of torch's own generators alone, which takes microseconds."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_torch_generators(states: list[torch.Tensor]) -> None:
    """Set torch's generators to saved states."""
    torch.set_rng_state(states[0])
    for device, state in enumerate(states[1:]):
        torch.cuda.set_rng_state(state, device)


def _listed(words: Any) -> list[int]:
    """Return the words of a state; older checkpoints have lists of them."""
    return words.tolist() if isinstance(words, torch.Tensor) else list(words)
