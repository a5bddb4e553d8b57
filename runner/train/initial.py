"""Weights to begin with: read from a run or a file, loaded where they fit, with an account of what did not."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import CheckpointError
from runner.tasks.described import listed
from runner.train.saved import BEST, FOLDER, FORMAT, LAST, weights_of

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and modules that hold a model
WRAPPERS = ("state_dict", "model", "model_state_dict")  # where files keep the weights beside other things
SHOWN = 5


@dataclass(frozen=True)
class InitialWeights:
    """What was loaded before the first step.

    Attributes:
        source: run directory or file, as given.
        loaded: tensors of the model that were loaded.
        total: tensors of the model.
        fresh: tensor of the model that keeps its fresh values -> its shape and that in the file; "" when not in it.
        unexpected: tensors of the file that the model does not have.
    """

    source: str
    loaded: int
    total: int
    fresh: Mapping[str, str]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"initial weights from {self.source}: {self.loaded} of {self.total} tensors"]
        if self.fresh:
            shown = [f"{name} ({shapes})" if shapes else name for name, shapes in self.fresh.items()]
            parts.append(f"fresh: {listed(shown, most=SHOWN)}")
        if self.unexpected:
            parts.append(f"unexpected: {listed(self.unexpected, most=SHOWN)}")
        return "; ".join(parts)


def load_initial_weights(source: str, model: nn.Module) -> InitialWeights:
    """Load what fits by name and shape; prefixes of wrappers are taken off where that makes a name fit.

    Args:
        source: a run directory, or a file with a state_dict.
        model: freshly initialised; changed in place.

    Raises:
        CheckpointError: nothing can be read, nothing of it fits, or what fits is not finite.
    """
    wanted, read = model.state_dict(), read_weights(Path(source))
    # an exact name comes before one that lost its prefix
    names = {_fitting_name(name, wanted): name for name in read} | {name: name for name in read.keys() & wanted.keys()}
    saved = {name: read[given] for name, given in names.items()}
    fitting = {name: saved[name] for name in wanted if name in saved and saved[name].shape == wanted[name].shape}
    if not fitting:
        has, needs = (
            listed([f"{name} ({_shape(value)})" for name, value in of.items()], most=3) for of in (read, wanted)
        )
        raise CheckpointError(f"must fit the model, got {source!r} with {has} for a model with {needs}")
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if broken := [name for name, value in fitting.items() if _is_broken(value, is_mask=name not in trained)]:
        raise CheckpointError(
            f"must hold finite weights, got {source!r} with nan or inf in {listed(broken, most=SHOWN)}"
        )
    model.load_state_dict(fitting, strict=False)
    held = {wanted[name].data_ptr() for name in fitting}  # a tied weight may be in the file under one of its names
    fresh = {
        name: f"{_shape(value)}, the file has {_shape(saved[name])}" if name in saved else ""
        for name, value in wanted.items()
        if name not in fitting and value.data_ptr() not in held
    }
    unexpected = tuple(sorted(names[name] for name in saved if name not in wanted))
    return InitialWeights(source, len(wanted) - len(fresh), len(wanted), fresh, unexpected)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a run's best checkpoint (its last without one) or of a file, by name.

    Nobody's code is run. Averaged weights come before raw ones.

    Raises:
        CheckpointError: the rule that the path breaks, and what it is.
    """
    if path.is_dir():
        found = [path / FOLDER / name for name in (BEST, LAST) if (path / FOLDER / name).is_file()]
        if not found:
            raise CheckpointError(f"must be a run directory with {FOLDER}/{BEST} or {LAST}, got {str(path)!r}")
        path = found[0]
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, dict) and content.get("format") == FORMAT and "generators" in content:
        content = weights_of(content)
    elif isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    tensors = (
        {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise CheckpointError(f"must hold a state_dict (name: tensor), got {str(path)!r} with {type(content).__name__}")
    return tensors


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of a file that is refused below, with the reason
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of torch before 1.6 cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"must be a run directory or a file of weights, got {str(path)!r}") from None
    except Exception as error:
        raise CheckpointError(
            f"must be a state_dict saved by torch.save(model.state_dict(), path), got {str(path)!r}, which is not "
            f"readable without running its code ({type(error).__name__})"
        ) from error


def _read_safetensors(path: Path) -> Any:
    if importlib.util.find_spec("safetensors") is None:
        raise CheckpointError(f"must be readable here, got {str(path)!r}; that takes: pip install safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"must be a readable file of safetensors, got {str(path)!r} ({error})") from error


def _fitting_name(name: str, wanted: Mapping[str, Tensor]) -> str:
    """Return the name without the prefixes that keep it from fitting; the name itself when nothing helps."""
    bare = name
    while bare not in wanted:
        prefix = next((prefix for prefix in PREFIXES if bare.startswith(prefix)), None)
        if prefix is None:
            return name
        bare = bare.removeprefix(prefix)
    return bare


def _is_broken(value: Tensor, *, is_mask: bool) -> bool:
    """Whether a tensor holds nan, or inf where it is no buffer: attention masks are made of it."""
    if not value.is_floating_point():
        return False
    value = value.float() if value.element_size() == 1 else value  # float8 has no isnan
    return bool((torch.isnan(value) if is_mask else ~torch.isfinite(value)).any())


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
