"""What to try about a cause, in order: overrides of ours, ready to paste."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.spikes import material
from runner.diagnosis.verdict import Cause, Suggestion
from runner.durations import parse
from runner.trends import is_still_falling

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

PATIENCE_EVALS = 3
_WORSE = 0.02  # held-out loss over its best, relative, from which on stopping early is worth a word
_LONG_BEFORE = 2 / 3  # of the run
_ENOUGH = 16  # gradient norms
_CALIBRATION = 0.9  # quantile of the gradient norms at which to clip (google-research/tuning_playbook)
_GIVEN_BACK = 0.3  # of the fall: what comes after the lowest level is trouble then
_MOST_WARMUP = 0.25  # of the run

_HEAL = Suggestion(
    ("remedy=[heal]",), "let the run cure itself: it compares lower rates first, for 60-90% more updates"
)
_GO_BACK = Suggestion(("remedy=[rollback_ladder]",), "let the run cure itself: go back and halve the learning rate")
Suggest = Callable[["Features"], Iterable[Suggestion | None]]


def suggestions(cause: Cause, f: Features) -> tuple[Suggestion, ...]:
    """Return what to try, the first first.

    The order follows what was measured on small tasks: for SGD a lower learning rate and clipping work and warmup is
    no cure; adaptive optimizers do not feel clipping, and warmup helps them; overfitting is never a reason to lower
    the learning rate. A run that was cut short first goes on when nothing speaks against it.
    """
    found = [suggestion for suggestion in _BY_CAUSE[cause](f) if suggestion is not None]
    if not f.known.go_on:
        return tuple(found)
    go_on = Suggestion(f.known.go_on, "go on with")
    return (go_on,) if cause in ("healthy", "cannot_tell", "plateau", "lr_too_low") else (*found, go_on)


def _rates(f: Features, why: str, *factors: float) -> Suggestion:
    """Return multiples of the learning rate, several as a multirun; in words alone where it is not known."""
    lr = f.known.lr
    if lr is None and f.rates is not None and f.known.lr_key == "optimizer.lr":
        lr = f.rates.peak
    if lr is None:
        words = ", ".join(f"LR{_times(factor)}" for factor in factors)
        return Suggestion((), f"{words}: {why}; add {f.known.lr_key}=..., what the run used, to get numbers")
    tens = {0.1, 1, 10}  # of these the digits are those of the learning rate
    words = ",".join(f"{lr * factor:g}" if factor in tens else number(lr * factor, 2) for factor in factors)
    return Suggestion((f"{f.known.lr_key}={words}",), why)


def _times(factor: float) -> str:
    return "" if factor == 1 else f" * {factor:g}" if factor > 1 else f" / {1 / factor:g}"


def _usual_norm(f: Features) -> float | None:
    """Return the 90th percentile of the norms before the trouble; None where there are fewer than 16."""
    norms = f.series.norms or []
    places = [spike.place for spike in material(f.spikes)] + ([f.way_out.place] if f.way_out else [])
    if f.shape.given_back > _GIVEN_BACK:
        places.append(round(f.shape.low_at * (f.shape.count - 1)))
    calm = sorted(norm for norm in norms[: max(min(places, default=len(norms)), 1)] if norm > 0)
    return calm[min(int(_CALIBRATION * len(calm)), len(calm) - 1)] if len(calm) >= _ENOUGH else None


def clip_norm(f: Features) -> str:
    """Return the override that clips at the 90th percentile of the norms before the trouble, at 1 without norms."""
    return f"train.clip_norm={number(_usual_norm(f) or 1.0, 2)}"


def _of_norms(f: Features) -> str:
    return "a usual value" if _usual_norm(f) is None else "the 90th percentile of the gradient norms before"


def _tenth(f: Features) -> Suggestion:
    what = "learning rate" if f.known.lr_key == "optimizer.lr" else "factor on the estimated learning rate"
    return _rates(f, f"try a {what} ten times lower", 0.1)


def _warmup(f: Features) -> Suggestion:
    """Return a warmup of 10% of the run, or three times the one there is."""
    steps, total = f.known.warmup_steps, f.known.total_steps
    if not steps or not total:
        return Suggestion(("warmup=linear", "warmup.duration=10%"), "try a warmup of a tenth of the run")
    longer = min(3 * steps, max(int(_MOST_WARMUP * total), 1))
    if longer <= steps:
        return _rates(f, "try a learning rate three times lower; the warmup is long already", 1 / 3)
    return Suggestion(("warmup=linear", f"warmup.duration={longer}"), "try a longer warmup")


def _clip(f: Features) -> Suggestion | None:
    """Return clipping; None where it changes nothing or is done already."""
    clip = f.known.clip_norm
    if f.known.family == "adaptive" or (clip is not None and clip < math.inf):
        return None
    return Suggestion((clip_norm(f),), f"clip the gradient at {_of_norms(f)}")


def _too_high(f: Features) -> Iterable[Suggestion | None]:
    yield _tenth(f)
    if f.known.family in ("sgd", "momentum"):
        yield _clip(f)
        yield _HEAL
        return
    yield _warmup(f)
    yield _clip(f)


def _early(f: Features) -> Iterable[Suggestion | None]:
    if f.known.family in ("sgd", "momentum"):
        yield _rates(f, "try a learning rate three times lower", 1 / 3)
        yield _clip(f)
        yield _warmup(f)
        return
    yield _warmup(f)
    yield _rates(f, "try a learning rate three times lower", 1 / 3)
    yield _clip(f)


def _at_end(f: Features) -> Iterable[Suggestion | None]:
    yield Suggestion(("schedule=cosine",), "try a schedule that falls to 0 at the end")
    yield _rates(f, "try a learning rate three times lower", 1 / 3)


def _too_low(f: Features) -> Iterable[Suggestion | None]:
    yield _rates(f, "try learning rates three and ten times higher", 3, 10)
    if is_still_falling(f.series.losses):
        yield _longer(f)


def _stuck(f: Features) -> Iterable[Suggestion | None]:
    yield _tenth(f)
    if f.known.family != "sgd" and f.known.family != "momentum":
        yield _warmup(f)
    if not f.was_wild:
        yield _rates(f, "try a learning rate ten times higher, in case it never moved", 10)


def _spike(f: Features) -> Iterable[Suggestion | None]:
    found = [spike for spike in material(f.spikes) if spike.came_from_data is not False]
    if found:
        worst = max(found, key=lambda spike: spike.rise)
        yield Suggestion((), f"look at the batch of step {f.step(worst.place):,}")
    yield Suggestion((clip_norm(f),), "clip the gradient, which bounds what one batch can do")
    yield _GO_BACK


def _fault(f: Features) -> Iterable[Suggestion | None]:
    if f.known.precision in ("fp16", "bf16"):
        if f.known.precision == "fp16":
            yield Suggestion(("train.precision=bf16",), "try bf16, which has the range of fp32")
        yield Suggestion(("train.precision=fp32",), "try full precision")
    broken = f.ending.step if f.ending is not None else f.series.holes[0].first if f.series.holes else None
    where = f"step {broken:,}" if broken is not None else "the steps that are no numbers"
    yield Suggestion((), f"look at the batch of {where}: nan or inf in it, logarithms of 0, divisions by 0")
    if f.known.precision is None:
        yield Suggestion(("train.precision=fp32",), "try full precision, where it was fp16")
    if f.ending is not None and f.ending.place > 1:
        yield _rates(f, "try a learning rate ten times lower, in case it was that", 0.1)


def _explosion(f: Features) -> Iterable[Suggestion | None]:
    yield Suggestion((clip_norm(f),), f"clip the gradient at {_of_norms(f)}")
    yield _rates(f, "try a learning rate three times lower", 1 / 3)


def _plateau(f: Features) -> Iterable[Suggestion | None]:
    if f.rates is None or f.rates.end > 0.5:
        yield Suggestion(("schedule=cosine",), "try a schedule that falls to 0 at the end")
    yield _rates(f, "try the learning rates around this one", 1 / 3, 1, 3)


def _overfit(f: Features) -> Iterable[Suggestion | None]:
    if not f.known.patience:
        yield Suggestion((f"train.early_stop.patience={PATIENCE_EVALS}",), "stop when it no longer gains")
    yield Suggestion((), "try more data, weight decay or dropout; a lower learning rate is no cure")


def _healthy(f: Features) -> Iterable[Suggestion | None]:
    """Stop early where the best was long before the end; else longer while it falls; else other learning rates."""
    evals = f.evals
    if evals is not None and f.known.patience == 0 and evals.worse > _WORSE and evals.best_at < _LONG_BEFORE:
        seen = f"held-out loss was best at step {evals.best_step:,}; stop when it no longer gains"
        yield Suggestion((f"train.early_stop.patience={PATIENCE_EVALS}",), seen)
        return
    yield _longer(f) if is_still_falling(f.series.losses) else _around(f)


def _longer(f: Features) -> Suggestion:
    duration = f.known.duration
    if duration is None:
        return Suggestion((), "the loss was still falling; try a run twice as long")
    amount, unit = parse(duration)
    twice = Fraction(2) * amount
    text = f"{twice.numerator if twice.denominator == 1 else float(twice)}{unit}"
    return Suggestion((f"train.duration={text}",), "the loss was still falling; try a run twice as long")


def _around(f: Features) -> Suggestion | None:
    """Return the learning rates around; a run that went on has another start than they would."""
    if f.known.resumed:
        return None
    if f.known.lr_key == "optimizer.lr":
        return _rates(f, "try the learning rates around this one", 1 / 3, 1, 3)
    return _rates(f, "try the factors on the estimated learning rate around this one", 1 / 2, 1, 2)


def _unclear(f: Features) -> Iterable[Suggestion | None]:
    yield _rates(f, "try the same run at learning rates ten times lower and higher", 0.1, 1, 10)


_BY_CAUSE: dict[Cause, Suggest] = {
    "healthy": _healthy,
    "lr_too_high": _too_high,
    "unstable_early": _early,
    "lr_too_high_at_end": _at_end,
    "lr_too_low": _too_low,
    "stuck": _stuck,
    "batch_spike": _spike,
    "numeric_fault": _fault,
    "gradient_explosion": _explosion,
    "plateau": _plateau,
    "overfitting": _overfit,
    "cannot_tell": _unclear,
}
