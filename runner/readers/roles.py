"""Which column holds the loss, and which the step, the learning rate, the gradient norm and the validation loss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from runner.errors import ConfigError, Problem, nearest

Role = Literal["step", "loss", "lr", "grad_norm", "val_loss"]
ROLES: tuple[Role, ...] = get_args(Role)
KEY = "source.columns"
MOST_NAMED = 30  # columns that a message lists

_STEPS = (
    ("global_step", "global_steps", "trainer_global_step", "train_global_step", "optimizer_step", "num_updates"),
    ("step", "steps", "update", "updates", "num_steps", "n_step", "total_steps"),
    ("iter", "iters", "iteration", "iterations", "it", "n_iter", "global_iteration", "num_iterations"),
    ("batch", "batches", "batch_idx", "minibatch", "x"),
    ("epoch", "epochs"),
)
_HELD_OUT = (
    {"val", "valid", "validation", "vloss", "valloss", "evalloss"},
    {"eval", "evaluation", "dev", "holdout", "heldout"},
    {"test", "testing", "testloss"},
)
_TRAIN = {"train", "training", "tr", "trn", "trainer", "metrics", "log", "logs", "losses", "stats", "scalars"}
_LOSS = {"loss", "losses", "trainloss", "lossval", "lossvalue", "nll", "ce", "xent", "crossentropy", "perplexityloss"}
_PLAIN = {"step", "batch", "iter", "total", "value", "avg", "mean", "running", "current"}
_AFTER = {"clipped", "after", "post", "clip", "scale", "scaled", "nominal", "multiplier", "ratio"}
_NO_LOSS = {
    *("acc", "accuracy", "auc", "auroc", "f", "score", "precision", "recall", "bleu", "rouge", "iou", "miou", "map"),
    *("reward", "return", "r", "time", "seconds", "sec", "ms", "throughput", "speed", "memory", "epoch", "epochs"),
}


class Roles(NamedTuple):
    """Role -> name of its column; None where there is none.

    Attributes:
        notes: what was decided that may not be what was meant.
    """

    loss: str
    step: str | None = None
    lr: str | None = None
    grad_norm: str | None = None
    val_loss: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[Role, str]:
        """The roles that are filled."""
        return {role: name for role in ROLES if (name := getattr(self, role)) is not None}


def find_roles(
    names: Sequence[str], given: Mapping[Role, str], *, counts: Mapping[str, int] | None = None, where: str = ""
) -> Roles:
    """Return which column is what.

    Args:
        names: of all columns that hold numbers.
        given: role -> column, as `source.columns` says.
        counts: name -> number of values, where each column has its own; a single value is no curve.
        where: the source in words, for errors.
    Raises:
        ConfigError: no column, or several, may be the loss; or one that was given is not there.
    """
    notes: list[str] = []
    wrong = [_missing(role, name, names) for role, name in given.items() if name not in names]
    if wrong:
        raise ConfigError(wrong)
    known = [name for name in names if not name.endswith(("__MIN", "__MAX")) and name not in given.values()]
    losses = {name: rank for name in known if (rank := _loss_rank(name)) is not None}
    if counts and any(counts[name] > 1 for name in losses):
        losses = {name: rank for name, rank in losses.items() if counts[name] > 1}
    step = given.get("step") or _step(known)
    loss = given.get("loss") or _loss(losses, [name for name in known if name != step], names, where, notes)
    held_out = {name: rank for name in known if name != loss and (rank := _held_out_rank(name)) is not None}
    found: dict[Role, str | None] = {
        "lr": _first({name: rank for name in known if (rank := _lr_rank(name)) is not None}, "learning rate", notes),
        "grad_norm": _first(
            {name: rank for name in known if (rank := _norm_rank(name)) is not None}, "gradient norm", notes
        ),
        "val_loss": _first(held_out, "validation loss", notes),
    }
    lr, grad_norm, val_loss = (given.get(role) or found[role] for role in ("lr", "grad_norm", "val_loss"))
    return Roles(loss, step, lr, grad_norm, val_loss, tuple(notes))


@lru_cache(maxsize=1024)
def is_held_out(name: str) -> bool:
    """Whether a name is that of data that is not trained on."""
    return any(set(_words(name)) & some for some in _HELD_OUT)


@lru_cache(maxsize=1024)
def may_be_loss(name: str) -> bool:
    """Whether a name may be that of a training loss."""
    return _loss_rank(name) is not None


def listed(names: Iterable[str]) -> str:
    """Return names in quotes, the first of many."""
    found = [repr(name) for name in names]
    more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
    return ", ".join(found[:MOST_NAMED]) + more


def _missing(role: Role, name: str, names: Sequence[str]) -> Problem:
    close = nearest(name, names)
    fix = f"Did you mean {KEY}.{role}={close!r}" if close else "Set it to one of them, or leave it out"
    return Problem(f"{KEY}.{role}", f"must be a column of the source ({listed(names)}), got {name!r}", fix)


def _loss(
    ranked: Mapping[str, tuple[int, int]], others: Sequence[str], names: Sequence[str], where: str, notes: list[str]
) -> str:
    """Return the column with the training loss.

    Raises:
        ConfigError: none or several may be it.
    """
    best = [name for name, rank in ranked.items() if rank == min(ranked.values())]
    if len(best) == 1:
        return best[0]
    unknown = [name for name in others if not _is_something_else(name)]
    if not best and len(unknown) == 1:
        notes.append(f"column {unknown[0]!r} is taken for the loss, as it is the only one that may be")
        return unknown[0]
    got = f"got {where + ' with ' if where else ''}{listed(names) or 'none'}"
    if best:
        rule = f"must name one of the columns that may be the training loss ({listed(best)}), {got}"
        raise ConfigError([Problem(f"{KEY}.loss", rule, f"Set {KEY}.loss={_spelled(best[0])}")])
    rule = f"must name the column with the training loss, as no name says it, {got}"
    if held_out := [name for name in names if _held_out_rank(name) is not None]:
        fix = f"Set {KEY}.loss={_spelled(held_out[0])} to have the loss on held-out data diagnosed in its place"
        raise ConfigError([Problem(f"{KEY}.loss", rule, fix)])
    raise ConfigError([Problem(f"{KEY}.loss", rule, f"Set {KEY}.loss to one of them")])


def _is_something_else(name: str) -> bool:
    return bool(_NO_LOSS & set(_words(name))) or _lr_rank(name) is not None or _norm_rank(name) is not None


def _spelled(name: str) -> str:
    return name if re.fullmatch(r"[\w./-]+", name) else f"\"'{name}'\""


def _first(ranked: Mapping[str, tuple[int, int]], what: str, notes: list[str]) -> str | None:
    """Return the best of the columns that may fill a role, the first of equals."""
    if not ranked:
        return None
    best = min(ranked.values())
    equals = [name for name, rank in ranked.items() if rank == best]
    if len(equals) > 1:
        notes.append(f"column {equals[0]!r} is taken for the {what}, the first of {listed(equals)}")
    return equals[0]


def _words(name: str) -> list[str]:
    """Split a name into small words; what a tracker puts before it ("run - loss") is left out."""
    text = name.rpartition(" - ")[2]
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    return re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())


def _step(names: Sequence[str]) -> str | None:
    plain = {"_".join(_words(name)): name for name in reversed(names)}
    return next((plain[text] for group in _STEPS for text in group if text in plain), None)


def _loss_rank(name: str) -> tuple[int, int] | None:
    """Return how likely a column is the training loss, the smaller the likelier; None where it is not."""
    words = _words(name)
    if not _LOSS & set(words) or any(set(words) & some for some in _HELD_OUT):
        return None
    rest = [word for word in words if word not in _LOSS | _TRAIN]
    if "epoch" in rest:
        return 2, len(rest)
    level = 0 if not rest else 1 if set(rest) <= _PLAIN else 3
    return level, len(_LOSS & set(words)) - 1 if level == 0 else 0  # "loss" before its part "loss_ce"


def _held_out_rank(name: str) -> tuple[int, int] | None:
    words = _words(name)
    level = next((i for i, some in enumerate(_HELD_OUT) if set(words) & some), None)
    if level is None or not any(word.endswith("loss") or word in _LOSS for word in words):
        return None
    return level, len([word for word in words if word not in _LOSS | _TRAIN])


def _lr_rank(name: str) -> tuple[int, int] | None:
    words = _words(name)
    is_lr = "lr" in words or "learningrate" in words or {"learning", "rate"} <= set(words)
    if not is_lr or _AFTER & set(words):
        return None
    return 0, len([w for w in words if w not in {"lr", "learning", "rate", "learningrate"} | _TRAIN])


def _norm_rank(name: str) -> tuple[int, int] | None:
    words = _words(name)
    text = "".join(words)
    if not re.search(r"gnorm|grad(ient)?s?(total|global|l)?\d?\d*norm|totalnorm|grad.*norm", text):
        return None
    if {"param", "weight", "update"} & set(words):
        return None
    rest = [
        w
        for w in words
        if w
        not in {"grad", "gradient", "gradients", "norm", "gnorm", "gradnorm", "total", "global", "l", "2", "2.0"}
        | _TRAIN
    ]
    return int(bool(_AFTER & set(words))), len(rest)
