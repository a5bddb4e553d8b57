"""The next character of a text: CPython's own help texts, or any text file."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from pydantic import validate_call
from torch import Tensor, nn

from runner.errors import ConfigError, Problem, TaskError
from runner.tasks.protocol import Batch, LossSum, Scores
from runner.tasks.tensors import TensorData, entropy
from runner.tasks.transformer import Transformer

TRAIN_TENTHS = 9
SHORTEST = 20  # characters: a tenth of it has one to look at and one to predict


class CharLM:
    """Predict every character of a text from those before it; loss in nats per character.

    The first nine tenths of the text train, the last tenth validates. An example is a window of `context` characters
    and the one that follows; neighbouring windows share one character, so an epoch predicts every character once,
    except the first and what is left over at the end of a split. The vocabulary is that of the whole text.

    Args:
        text: path of a text file in UTF-8; None takes the help topics of the running Python (`pydoc_data.topics`,
            about 465,000 characters; they differ a little between versions).
        context: characters that the model sees at once.
        width: numbers that describe one character; `heads` divides it.
        depth: blocks of attention and feed-forward layer.
        heads: attention heads of a block.
        dropout: probability of dropping; in [0, 1).
        norm: LayerNorm at the start of a residual branch ("pre") or behind its sum ("post").
        qk_norm: whether queries and keys are normalised.
        base_width: width for which the learning rate was chosen, with `param_groups=mup`; `heads` divides it; None
            starts the weights in the usual way.
        batch_size: windows per optimizer step, from the run.
        seed: order of the windows, from the run.
    Raises:
        ConfigError: the text cannot be read or is too short for the context; heads does not divide width.
        TaskError: this Python comes without its help topics.
    """

    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min", "bits_per_char": "min"}
    remarks: Sequence[str] = ()

    @validate_call
    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        text: str | None = None,
        context: Annotated[int, Ge(1)] = 64,
        width: Annotated[int, Ge(1)] = 96,
        depth: Annotated[int, Ge(1)] = 3,
        heads: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm: Literal["pre", "post"] = "pre",
        qk_norm: bool = False,
        base_width: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        content = _content(text, {"width": width, "base_width": base_width}, heads)
        ids, vocabulary = _encode(content)
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        splits = _windows(ids, context=context)
        self._data = TensorData(splits, batch_size=batch_size, seed=seed)
        self.examples = self._data.examples
        self.prior_entropy = entropy(splits["train"][0][:, 1:])
        self._new_model = functools.partial(
            Transformer,
            vocabulary,
            context=context,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            norm=norm,
            qk_norm=qk_norm,
            base_width=base_width,
        )

    def model(self) -> nn.Module:
        """Return a freshly initialised transformer: characters (n, t) -> logits (n, t, vocabulary)."""
        return self._new_model()

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        """Return (windows (n, context + 1),) of a slice of a batch, None when it is empty."""
        return self._data.batch(step, split, part)

    def weight(self, batch: tuple[Tensor, ...]) -> float:
        """Return the number of characters that are predicted."""
        return batch[0][:, 1:].numel()

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        """Return the cross entropy summed over characters, in nats."""
        windows = batch[0].long()
        logits, targets = apply(windows[:, :-1]), windows[:, 1:]
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = nn.functional.cross_entropy(exact.flatten(0, 1), targets.flatten(), reduction="sum")
        return LossSum(total, len(windows), logits)

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are logits."""
        return outputs

    def scores(self) -> Scores:
        """Return bits per character."""
        return BitsPerChar()


class BitsPerChar:
    """loss / ln 2: the loss in bits."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Do nothing: the mean loss says it."""

    def compute(self, loss: float) -> dict[str, float]:
        """Return the bits that one character takes on average."""
        return {"bits_per_char": loss / math.log(2)}


def _content(text: str | None, widths: Mapping[str, int | None], heads: int) -> str:
    """Return the text, or raise with all that is wrong."""
    problems: list[Problem] = []
    for name, width in widths.items():
        if width is not None and width % heads:
            rule = f"must divide task.{name}={width}, got {heads}"
            fix = f"Set task.heads=1 or task.{name}={width // heads * heads + heads}"
            problems.append(Problem("task.heads", rule, fix))
    try:
        content = _help_topics() if text is None else _read(text)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return content


def _help_topics() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise TaskError("task: must find Python's pydoc_data.topics. Give a text file: task.text=<path>.") from None
    return "".join(topics[name] for name in sorted(topics))


def _read(text: str) -> str:
    """Return the content of a text file, without a byte order mark, line ends as newlines."""
    path = Path(text).expanduser()
    if not path.is_file():
        what = "a directory" if path.is_dir() else "not a file" if path.exists() else "no such file"
        raise _refusal(f"must be a text file, got {text!r} ({what})")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _refusal(f"must be a text file that can be read, got {text!r} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise _refusal(
            f"must be a text file in UTF-8, got {text!r} (byte {error.start} does not belong there)"
        ) from None
    if "\0" in content:
        raise _refusal(f"must be a text file, got {text!r} (a NUL byte at character {content.index(chr(0))})")
    if len(content) < SHORTEST:
        raise _refusal(f"must have at least {SHORTEST} characters, got {text!r} with {len(content)}")
    return content


def _refusal(rule: str) -> ConfigError:
    return ConfigError([Problem("task.text", rule, "Give the path of another, or null for Python's help topics")])


def _encode(content: str) -> tuple[Tensor, int]:
    """Return the text as numbers 0 to V - 1, in the order of their code points and as small as fits, and V."""
    points = np.frombuffer(content.encode("utf-32-le"), dtype=np.uint32)
    is_there = np.zeros(points.max() + 1, dtype=bool)
    is_there[points] = True
    size = int(is_there.sum())
    ids = (np.cumsum(is_there) - 1).astype(np.uint8 if size <= 256 else np.int32)
    return torch.from_numpy(ids[points]), size


def _windows(ids: Tensor, *, context: int) -> dict[str, tuple[Tensor]]:
    """Return split -> views of the text, (windows, context + 1)."""
    train = len(ids) * TRAIN_TENTHS // 10
    longest = len(ids) - train - 1
    if context > longest:
        rule = f"must be at most {longest}, as a tenth of the {len(ids)} characters validates, got {context}"
        raise ConfigError([Problem("task.context", rule, f"Set task.context={longest} or less, or a longer task.text")])
    halves = {"train": ids[:train], "val": ids[train:]}
    return {split: (part.unfold(0, context + 1, context),) for split, part in halves.items()}
