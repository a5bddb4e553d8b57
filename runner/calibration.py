"""What short trials tell: the shortest warmup that is safe, and where to clip the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple

from runner.curves import number

TOLERANCE = 0.02  # a loss higher by this share is worse
TOO_OFTEN = 0.5  # of the updates: clipping more of them is a lower learning rate in disguise
AIM = 0.1  # of the updates are clipped at the 90th percentile
ALARM_TIMES = 3.0  # as many as that are worth an alarm; the fullest 100 steps of five calibrated runs had 0.9 of it
FEWEST_STEPS = 100  # of a run worth calibrating
_TAIL = 0.1  # of a trial, at its end, is what trials are compared by
_NOISE = 2.0  # standard errors that are no difference


class Trial(NamedTuple):
    """The first stretch of a run, tried with one warmup.

    Attributes:
        warmup_steps: W; 0 without one.
        seed: of the run.
        losses: one a step.
        grad_norms: one a step, before clipping.
        alarms: messages of its alarms that are no good news, in order.
        stopped: whether one of them ended it.
    """

    warmup_steps: int
    seed: int
    losses: Sequence[float]
    grad_norms: Sequence[float]
    alarms: Sequence[str] = ()
    stopped: bool = False

    @property
    def tail(self) -> Sequence[float]:
        """The losses that it is compared by."""
        return self.losses[-max(3, int(_TAIL * len(self.losses))) :]

    @property
    def end(self) -> float:
        """Mean of the tail; inf where the trial was stopped or a loss is not finite."""
        finite = not self.stopped and all(map(math.isfinite, self.tail))
        return math.fsum(self.tail) / len(self.tail) if finite else math.inf


def warmups_to_try(steps: int) -> list[int]:
    """Return 0 and the orders of magnitude up to a tenth of the run, shortest first: T/10, T/100 ... while >= 2 steps.

    Source: google-research/tuning_playbook, orders of magnitude up to 10% of the training.
    """
    lengths, length = [], steps // 10
    while length >= 2:
        lengths.append(length)
        length //= 10
    return [0, *reversed(lengths)]


def trial_steps(warmups: Sequence[int]) -> int:
    """Return how long a trial is: the longest warmup and twice that after it.

    Source: google-research/tuning_playbook, post_warmup = 2 x warmup_steps.
    """
    return 3 * max(warmups)


def is_safe(trial: Trial, others: Sequence[Trial]) -> bool:
    """Whether a trial was not stopped, has learned, and ended as well as the best one with its seed, within noise.

    It has learned when its end is below its first loss. With d_t the difference to the best trial at step t of its
    tail of n steps, on the same batches, it ended as well when mean d <= max(2 sd(d) / sqrt(n), 2% of the best loss).
    """
    if not trial.end < trial.losses[0]:
        return False
    best = min((other for other in others if other.seed == trial.seed), key=lambda other: other.end)
    differences = [one - other for one, other in zip(trial.tail, best.tail, strict=True)]
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return mean <= max(_NOISE * math.sqrt(variance / len(differences)), TOLERANCE * abs(best.end))


def shortest_safe(trials: Sequence[Trial]) -> int | None:
    """Return the shortest warmup that is safe with every seed, None where none is."""
    verdicts: dict[int, bool] = {}
    for trial in trials:
        verdicts[trial.warmup_steps] = verdicts.get(trial.warmup_steps, True) and is_safe(trial, trials)
    return min((steps for steps, safe in verdicts.items() if safe), default=None)


def norms_after_warmup(trials: Sequence[Trial], warmup_steps: int) -> list[float]:
    """Return the finite gradient norms after the warmup of the trials with that warmup."""
    chosen = [trial for trial in trials if trial.warmup_steps == warmup_steps]
    return [norm for trial in chosen for norm in trial.grad_norms[warmup_steps:] if math.isfinite(norm)]


def clip_threshold(norms: Sequence[float]) -> float:
    """Return the 90th percentile of gradient norms, with three digits.

    Source: google-research/tuning_playbook.
    """
    return float(f"{quantiles(norms, n=10, method='inclusive')[-1]:.3g}")


class Calibration(NamedTuple):
    """What came out.

    Attributes:
        warmup_steps: shortest safe warmup; None where none is.
        clip_norm: 90th percentile of the gradient norms; None without a safe warmup.
        clipped: share of the updates that it clipped when it was tried; None where it was not.
        clip_gain: how much lower the loss ended with it than without, as a share; None where it was not tried.
        steps: that all trials have made.
    """

    warmup_steps: int | None
    clip_norm: float | None
    clipped: float | None
    clip_gain: float | None
    steps: int

    @property
    def clips_too_often(self) -> bool:
        """Whether clipping would be a lower learning rate in disguise."""
        return self.clipped is not None and self.clipped > TOO_OFTEN

    @property
    def clip_alarm(self) -> float | None:
        """Share of clipped updates worth an alarm: 3 max(share when tried, 10%), at most 50%; None without a norm."""
        if self.clip_norm is None or self.clipped is None or self.clips_too_often:
            return None
        return round(min(ALARM_TIMES * max(self.clipped, AIM), TOO_OFTEN), 2)

    def overrides(self, *, lr: float, lr_key: str, alarm_key: str) -> list[str]:
        """Return what to put on the command line; `alarm_key` is that of the share of clipped updates."""
        if self.warmup_steps is None:
            return [f"{lr_key}={number(lr / 10, 3)}"]
        warmup = ["warmup=linear", f"warmup.duration={self.warmup_steps}"] if self.warmup_steps else ["warmup=none"]
        if self.clip_norm is None:
            return warmup
        if self.clips_too_often:
            return [*warmup, f"{lr_key}={number(lr / 3, 3)}"]
        alarm = [f"{alarm_key}={self.clip_alarm:g}"] if self.clip_alarm is not None else []
        return [*warmup, f"train.clip_norm={self.clip_norm:g}", *alarm]

    def in_words(self) -> list[str]:
        """Return a sentence for each thing found."""
        if self.warmup_steps is None:
            return ["no warmup that was tried makes this learning rate safe: lower it"]
        if self.warmup_steps == 0:
            said = ["warmup: none is needed; no longer one ended better beyond noise"]
        else:
            said = [f"warmup: {self.warmup_steps:,} steps are the fewest that end as well as the best"]
        if self.clip_norm is None or self.clipped is None or self.clip_gain is None:
            return said
        said.append(
            f"clipping: train.clip_norm={self.clip_norm:g} is the 90th percentile of the gradient norms; tried, it "
            f"clipped {self.clipped:.0%} of the updates, and the loss ended {_in_words(self.clip_gain)}"
        )
        if self.clips_too_often:
            said.append(f"that is over {TOO_OFTEN:.0%}, a lower learning rate in disguise: lower the rate itself")
        if self.clip_alarm is not None:
            said.append(f"alarm: when more than {self.clip_alarm:.0%} of the latest updates are clipped")
        return said

    def as_json(self, trials: Mapping[str, Sequence[Trial]]) -> dict[str, object]:
        """Return it with the trials that it rests on."""
        return {
            **self._asdict(),
            "clip_alarm": self.clip_alarm,
            "trials": {name: [trial._asdict() for trial in some] for name, some in trials.items()},
        }


def _in_words(gain: float) -> str:
    return f"{abs(gain):.1%} {'lower' if gain > 0 else 'higher'} than without"
