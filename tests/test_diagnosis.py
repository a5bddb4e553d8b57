"""From a curve to a cause: hand-made curves for every cause, and what must hold for any numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.diagnosis.confidence import confidence
from runner.diagnosis.curve import Curve, Family, Known
from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.features import read_features
from runner.diagnosis.rules_rate import LARGE_LOG_Z
from runner.diagnosis.verdict import CAUSES, Cause, Stretch, Suggestion, in_words, to_json
from runner.records import Alarm, EvalRecord, StepRecord
from runner.report.diagnosis_panel import headline
from runner.trends import noise, persistence, spread, trend
from tests.pages import composed

NAN, INF = math.nan, math.inf
CLASSIC = [2.5, 2.4, 2.6, 3.1, 4.2, NAN]
STEPS = 400


def noisy(level: Callable[[float], float], *, sd: float = 0.05, steps: int = STEPS, seed: int = 0) -> list[float]:
    """Return level(share of the run) times lognormal noise."""
    rng = random.Random(seed)
    return [level(step / steps) * math.exp(rng.gauss(0, sd)) for step in range(steps)]


def decay(share: float) -> float:
    return 0.1 + 2.2 * math.exp(-8 * share)


def constant(lr: float = 0.1, steps: int = STEPS) -> list[float]:
    return [lr] * steps


def calm_norms(steps: int = STEPS) -> list[float]:
    return noisy(lambda share: 1.0, sd=0.1, steps=steps, seed=1)


def spiked(losses: list[float], place: int, size: float, width: int = 1) -> list[float]:
    return [*losses[:place], *(loss * size for loss in losses[place : place + width]), *losses[place + width :]]


def runs_away(losses: list[float], factor: float = 1.7) -> list[float]:
    return [*losses, *(losses[-1] * factor**n for n in range(1, 9)), NAN]


def diverges() -> Curve:
    losses = runs_away(noisy(decay, steps=80), 2.5)
    norms = [*calm_norms(80), *(1.5**n for n in range(1, 10))]
    return Curve(range(89), losses, constant(1.0, 89), norms, known=Known(family="momentum", total_steps=STEPS))


def gives_back() -> Curve:
    rng = random.Random(3)
    walk = [2.3 + 0.5 * math.sin(step / 9) * rng.random() for step in range(300)]
    return Curve.of_losses([*noisy(lambda share: 2.3 - share, steps=100), *walk])


def explodes_early() -> Curve:
    rise = [2.3, 4.0, 9.0, 20.0, 12.0, *(8.0 * 0.93**n for n in range(20))]
    losses = [*rise, *noisy(lambda share: 0.2 + 2.0 * math.exp(-6 * share), steps=STEPS - len(rise))]
    return Curve(
        range(STEPS), losses, constant(), known=Known(family="adaptive", warmup_steps=0, total_steps=STEPS)
    )  # fmt: skip


def rises_late() -> Curve:
    losses = [*noisy(decay, steps=320), *(0.1 * 1.05**n for n in range(80))]
    lrs = [0.001 * 1.012**n for n in range(STEPS)]
    return Curve(range(STEPS), losses, lrs, calm_norms())


def crawls() -> Curve:
    lrs = [1e-5 * (1 - step / STEPS) for step in range(STEPS)]
    losses = noisy(lambda share: 2.3 - 0.1 * (1 - (1 - share) ** 2), sd=0.003)
    return Curve(range(STEPS), losses, lrs, calm_norms(), known=Known(family="adaptive", lr=1e-5))


def rests_at_prior() -> Curve:
    losses = [*(2.3 * 1.2**n for n in range(12)), *(2.303 + 10 * 0.8**n for n in range(88))]
    losses += noisy(lambda share: 2.31, sd=0.004, steps=300)
    return Curve(range(STEPS), losses, constant(), known=Known(prior_entropy=2.302))


def bad_batch() -> Curve:
    return Curve(range(STEPS), spiked(noisy(decay), 250, 30.0), constant(), calm_norms())


def overflows() -> Curve:
    losses = [*noisy(decay, steps=200), *[NAN] * 5]
    return Curve(range(205), losses, constant(0.1, 205), calm_norms(205), known=Known(precision="fp16"))


def gradient_bursts() -> Curve:
    losses, norms = noisy(decay), calm_norms()
    for place in (150, 220, 290):
        losses = spiked(losses, place, 40.0, width=3)
        norms[place - 1] = 300.0
    return Curve(range(STEPS), losses, constant(), norms)


def cut_early() -> Curve:
    losses = [*noisy(lambda share: 2.3 - share, sd=0.01, steps=80), *noisy(lambda share: 1.3, sd=0.01, steps=320)]
    return Curve(range(STEPS), losses, [*constant(0.1, 80), *constant(1e-4, 320)])


def memorises() -> Curve:
    evals = [(step, 2.3 - step / 100 if step <= 120 else 1.1 + (step - 120) / 250) for step in range(20, 401, 20)]
    return replace(Curve(range(STEPS), noisy(lambda share: 2.3 * math.exp(-6 * share))), evals=evals)


KINDS: dict[Cause, Callable[[], Curve]] = {
    "healthy": lambda: Curve(range(STEPS), noisy(decay), constant(), calm_norms()),
    "lr_too_high": diverges,
    "unstable_early": explodes_early,
    "lr_too_high_at_end": rises_late,
    "lr_too_low": crawls,
    "stuck": rests_at_prior,
    "batch_spike": bad_batch,
    "numeric_fault": overflows,
    "gradient_explosion": gradient_bursts,
    "plateau": cut_early,
    "overfitting": memorises,
    "cannot_tell": lambda: Curve.of_losses(noisy(lambda share: 1.0, sd=0.1)),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_is_named(cause: Cause) -> None:
    found = diagnose(KINDS[cause]())
    assert found.cause == cause
    assert found.confidence > 0.5
    assert found.summary
    assert all(first.first <= first.last for first in found.stretches)


def test_classic_curve_is_too_high_a_rate_with_a_modest_confidence() -> None:
    found = diagnose(Curve.of_losses(CLASSIC))
    assert found.cause == "lr_too_high"
    assert 0.5 <= found.confidence <= 0.7
    first, *others = found.suggestions
    assert first.why.startswith("LR / 10: ")
    assert [s.overrides[0].partition("=")[0] for s in others] == ["warmup", "train.clip_norm"]
    assert "more steps" in found.settle
    assert "gradient norms" in found.settle


def test_known_learning_rate_makes_the_overrides_numbers() -> None:
    found = diagnose(Curve.of_losses(CLASSIC, Known(lr=0.03, family="momentum")))
    assert found.suggestions[0].overrides == ("optimizer.lr=0.003",)


def test_five_numbers_without_nan_say_less_than_six_with_it() -> None:
    assert diagnose(Curve.of_losses(CLASSIC[:-1])).confidence <= 0.5


def test_falling_back_is_too_high_also_without_a_nan() -> None:
    assert diagnose(gives_back()).cause == "lr_too_high"


def test_loss_that_is_no_number_from_the_start_is_not_the_learning_rate() -> None:
    found = diagnose(Curve.of_losses([NAN, NAN]))
    assert found.cause == "numeric_fault"
    assert "not the learning rate" in found.summary
    at_once = Curve([0], [2.3], [0.1], [INF])
    assert diagnose(at_once).cause == "numeric_fault"


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (
            [INF, 2, 1.5, 1.2, 1.0],
            "the first loss is inf, no number, at step 0, and the curve goes on with 2 at step 1",
        ),
        ([INF, 2, 1.5], "the first loss is inf, no number, at step 0, and the curve goes on with 2 at step 1"),
        ([NAN, NAN, 2, 1.5], "the first 2 losses are nan, no number, at steps 0 to 1, and the curve goes on with 2 at"),
        ([-INF, 2], "the first loss is -inf, no number, at step 0"),
    ],
)
def test_curve_that_begins_with_no_number_is_a_fault_and_says_so(losses: list[float], text: str) -> None:
    found = diagnose(Curve.of_losses(losses))
    assert found.cause == "numeric_fault"
    assert found.confidence <= 0.5
    assert found.summary.startswith(text)
    assert [stretch.first for stretch in found.stretches] == [0]


def test_curve_that_begins_with_no_number_and_ends_with_none_says_both() -> None:
    found = diagnose(Curve.of_losses([INF, *noisy(decay), NAN]))
    assert found.cause == "numeric_fault"
    assert "the loss is nan at step 401" in found.summary
    assert "the first loss is inf, no number, at step 0" in found.summary
    assert [stretch.first for stretch in found.stretches] == [0, 401]


def test_number_that_is_none_inside_a_curve_is_a_fault_and_named_with_its_step() -> None:
    losses = noisy(decay)
    losses[150] = INF
    found = diagnose(Curve(range(0, 10 * STEPS, 10), losses, constant(), calm_norms()))
    assert found.cause == "numeric_fault"
    assert "the loss is inf at step 1,500, and the curve goes on after it" in found.summary
    assert [(stretch.first, stretch.what) for stretch in found.stretches] == [(1500, "loss inf")]
    losses[200:204], losses[300:302] = [NAN] * 4, [NAN] * 2
    for place in (20, 30, 40):
        losses[place] = NAN
    found = diagnose(Curve(range(STEPS), losses, constant(), calm_norms()))
    assert found.cause == "numeric_fault"
    text = "the loss is nan at step 20, step 30, step 40, step 150 and 6 more losses, and the curve goes on after it"
    assert found.summary == text
    assert (found.stretches[4].first, found.stretches[4].last) == (200, 203)


def test_held_out_loss_that_is_no_number_is_named_with_its_step() -> None:
    curve = replace(KINDS["healthy"](), evals=[(100, 1.0), (200, NAN), (300, NAN)])
    found = diagnose(curve)
    assert "the held-out loss is nan at step 200 and in 1 evaluation after it" in found.summary
    assert Stretch(200, 200, "held-out loss nan") in found.stretches


def test_end_of_a_curve_is_said_whatever_the_verdict() -> None:
    found = diagnose(Curve.of_losses([1.0, NAN]))
    assert "the loss is nan at step 1" in found.summary


def test_end_is_found_behind_a_number_that_was_none() -> None:
    losses = runs_away(noisy(decay, steps=200), 2.5)
    losses[50] = NAN
    found = diagnose(Curve.of_losses(losses))
    assert found.cause == "lr_too_high"
    assert "the loss is nan at step 208" in found.summary
    assert "the loss is nan at step 50" in found.summary


@pytest.mark.parametrize("first_zero", [60, 61])
def test_first_of_the_gradient_norms_that_are_none_is_the_step(first_zero: int) -> None:
    """What transformers logs of an overflow in fp16: nan for the norm, and 0 for the loss."""
    losses = [loss if place < first_zero else 0.0 for place, loss in enumerate(noisy(decay, steps=100))]
    norms = [*calm_norms(60), *[NAN] * 40]
    found = diagnose(Curve(range(10, 1010, 10), losses, constant(steps=100), norms))
    assert found.cause == "numeric_fault"
    assert found.stretches == (Stretch(610, 610, "gradient norm nan"),)
    assert any("all 40 losses from step 610 on are exactly 0" in text for text in found.rests_on) == (first_zero == 60)


@pytest.mark.parametrize(
    ("value", "count", "is_skipped", "why"),
    [
        (NAN, 30, False, "no longer recorded"),
        (INF, 2, False, "these updates are dropped, or the norm is too large"),
        (INF, 30, False, "these updates are dropped, or the norm is too large"),
        (INF, 2, True, "2 updates that the scaler of fp16 dropped"),
    ],
)
def test_losses_that_go_on_are_judged_whatever_stands_for_their_norms(
    value: float, count: int, is_skipped: bool, why: str
) -> None:
    losses, norms = noisy(decay, steps=100), [*calm_norms(100 - count), *[value] * count]
    skipped = [is_skipped and not math.isfinite(norm) for norm in norms]
    found = diagnose(Curve(range(100), losses, constant(steps=100), norms, skipped=skipped))
    assert found.cause == "healthy"
    assert why in found.summary
    assert found.stretches[-1] == Stretch(100 - count, 99, f"gradient norm {value}")


@pytest.mark.parametrize("is_skipped", [True, False])
def test_updates_that_are_dropped_to_the_end_are_a_fault(is_skipped: bool) -> None:
    losses = [*noisy(decay, steps=100)[:70], *noisy(lambda share: 0.12, steps=30)]
    skipped = [is_skipped and place >= 70 for place in range(100)]
    found = diagnose(Curve(range(100), losses, constant(steps=100), [*calm_norms(70), *[INF] * 30], skipped=skipped))
    assert found.cause == "numeric_fault"
    assert found.stretches[0].first == 70
    assert any("the 30 updates from there to the end are dropped" in text for text in found.rests_on)


def test_norms_that_a_detector_warned_of_while_it_ran_were_recorded() -> None:
    alarm = Alarm(97, "non_finite", "stop", {}, "gradient norm is nan at step 97")
    curve = Curve(range(100), noisy(decay, steps=100), None, [*calm_norms(97), *[NAN] * 3])
    assert diagnose(curve).cause == "healthy"
    found = diagnose(replace(curve, alarms=[alarm]))
    assert found.cause == "numeric_fault"
    assert found.stretches == (Stretch(97, 97, "gradient norm nan"),)


@pytest.mark.parametrize("end", [[50.0] * 2, [40.0, 60.0, 50.0]])
def test_losses_that_do_not_go_on_after_a_norm_that_is_none_are_cut_there(end: list[float]) -> None:
    norms = [*calm_norms(60), *[NAN] * (len(end) + 1)]
    found = diagnose(Curve(range(61 + len(end)), [*noisy(decay, steps=100)[:61], *end], None, norms))
    assert found.cause == "numeric_fault"
    assert found.stretches == (Stretch(60, 60, "gradient norm nan"),)


def test_norms_that_are_infinite_from_the_first_step_on_have_no_losses_before_them() -> None:
    found = diagnose(Curve(range(16), noisy(lambda share: 2.3, steps=16), None, [INF] * 16))
    assert found.cause == "numeric_fault"
    assert found.summary.startswith("the gradient norm is inf at step 0, before any update was made")
    assert not any("losses before it" in text for text in found.rests_on)


def test_norms_that_were_recorded_now_and_then_or_never_end_nothing() -> None:
    losses = noisy(decay, steps=100)
    norms = [norm if place % 10 == 0 else NAN for place, norm in enumerate(calm_norms(100))]
    alone = diagnose(Curve(range(100), losses, constant(steps=100)))
    assert diagnose(Curve(range(100), losses, constant(steps=100), [NAN] * 100)) == alone
    assert diagnose(Curve(range(100), losses, constant(steps=100), norms)).summary == alone.summary


def test_losses_that_are_exactly_zero_at_once_are_a_fault_and_those_that_get_there_are_none() -> None:
    found = diagnose(Curve.of_losses([*noisy(decay, steps=60), *[0.0] * 40]))
    assert found.cause == "numeric_fault"
    assert found.stretches[0].first == 60
    assert diagnose(Curve.of_losses([*(2.0 * 0.9**n for n in range(100)), *[0.0] * 40])).cause == "healthy"


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5])
def test_edge_of_stability_is_healthy(share: float) -> None:
    rng = random.Random(0)
    losses = [decay(0.0)]
    for step in range(1, 600):
        rises = rng.random() < share
        losses.append(decay(step / 600) * (1.04 if rises else 0.99))
    assert sum(b > a for a, b in pairwise(losses)) > 0.15 * len(losses)
    found = diagnose(Curve.of_losses(losses))
    assert found.cause == "healthy"
    assert any("normal" in text for text in found.rests_on)


def test_heavy_tails_of_small_batches_are_healthy() -> None:
    losses = noisy(decay, sd=0.8, steps=1000)
    assert diagnose(Curve(range(1000), losses, constant(steps=1000), calm_norms(1000))).cause == "healthy"


def test_block_of_bad_batches_on_a_noisy_table_is_seen() -> None:
    """At 0.6 of its logarithm no single loss stands out; eight in a row do, and go as they came."""
    rng, losses = random.Random(0), noisy(decay, sd=0.6)
    burst = [*losses[:250], *(2.0 * rng.lognormvariate(0, 0.2) for _ in range(8)), *losses[258:]]
    norms = [norm * (5 if 250 <= n < 258 else 1) for n, norm in enumerate(calm_norms())]
    found = diagnose(Curve(range(STEPS), burst, constant(), norms))
    assert found.cause == "batch_spike"
    assert found.stretches[0].first == 250


def test_batch_of_another_kind_is_known_by_its_gradient_though_the_damage_comes_later() -> None:
    damage = [0.9 * math.exp(0.3 * min(n, 8) - 0.05 * max(n - 8, 0)) for n in range(60)]
    losses = noisy(decay, sd=0.3)
    losses[250:310] = [max(loss, hurt) for loss, hurt in zip(losses[250:310], damage, strict=True)]
    norms = calm_norms()
    norms[250] = 80.0
    found = diagnose(Curve(range(STEPS), losses, constant(), norms))
    assert found.cause == "batch_spike"
    assert found.stretches[0].first == 250


@pytest.mark.parametrize(("size", "cause"), [(90.0, "lr_too_high"), (20.0, "healthy")])
def test_outputs_that_saturate_a_softmax_speak_for_too_high_a_rate(size: float, cause: Cause) -> None:
    curve = KINDS["healthy"]()
    signals = {"log_z": [(step, size * step / STEPS) for step in range(0, STEPS, 20)]}
    assert diagnose(replace(curve, signals=signals)).cause == cause


def test_healthy_is_less_sure_where_an_adaptive_optimizer_could_hide_it() -> None:
    curve = KINDS["healthy"]()
    sgd, adamw = (diagnose(replace(curve, known=Known(family=family))) for family in ("sgd", "adaptive"))
    bare = diagnose(Curve.of_losses(curve.losses))
    assert bare.confidence < adamw.confidence < sgd.confidence


def test_jump_with_the_learning_rate_is_no_bad_batch() -> None:
    curve = bad_batch()
    lrs = [*constant(0.1, 250), *constant(1.0, 150)]
    assert diagnose(replace(curve, lrs=lrs)).cause != "batch_spike"


def test_without_gradient_norms_a_spike_is_less_sure_and_says_why() -> None:
    with_norms, without = diagnose(bad_batch()), diagnose(replace(bad_batch(), grad_norms=None))
    assert without.cause == "batch_spike"
    assert without.confidence < with_norms.confidence
    assert "gradient norms" in without.settle


def test_flat_line_at_the_prior_is_stuck_only_where_the_prior_is_known() -> None:
    flat = noisy(lambda share: 2.303, sd=0.005)
    assert diagnose(Curve.of_losses(flat)).cause == "cannot_tell"
    assert diagnose(Curve.of_losses(flat, Known(prior_entropy=2.302))).cause == "stuck"


def test_overfitting_never_lowers_the_learning_rate() -> None:
    found = diagnose(memorises())
    assert not [override for s in found.suggestions for override in s.overrides if "lr" in override]
    assert not [s for s in found.suggestions if s.why.startswith("LR")]


def test_detector_that_stopped_the_run_is_heard() -> None:
    alarm = Alarm(60, "divergence", "stop", {}, "smoothed loss 3 has been 5 times its lowest")
    losses = [*noisy(decay, steps=50), *(0.1 * 1.2**n for n in range(10))]
    curve = Curve.of_losses(losses)
    heard = diagnose(replace(curve, alarms=[alarm]))
    assert heard.cause == "lr_too_high"
    assert any("divergence" in text for text in heard.rests_on)


def test_records_become_a_curve() -> None:
    steps = [
        StepRecord(
            step=n, time_ms=n, loss=1.0 / (n + 1), lr=0.1, grad_norm=2.0, examples=n, clipped=n == 1,
            signals={"sharpness": 3.0} if n == 2 else None,
        )
        for n in range(4)
    ]  # fmt: skip
    evals = [EvalRecord(2, 0, "val", {"loss": 0.5}), EvalRecord(2, 0, "train", {"loss": 0.4})]
    curve = Curve.of_records([*steps[:2], *evals, *steps[2:]], Known(lr=0.1))
    assert list(curve.steps) == [0, 1, 2, 3]
    assert curve.clipped == [False, True, False, False]
    assert curve.evals == [(2, 0.5)]
    assert curve.signals == {"sharpness": [(2, 3.0)]}
    assert curve.skipped is None


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lrs: must be as many as steps, got 1 and 2\."):
        Curve([0, 1], [1.0, 2.0], [0.1])


def test_long_curve_says_what_its_picture_says() -> None:
    """Every hundredth part of a run of 200,000 steps: the same cause, at its place."""
    losses = spiked(noisy(decay, steps=200_000), 150_000, 40.0, width=600)
    found = diagnose(Curve(range(200_000), losses, constant(steps=200_000), calm_norms(200_000)))
    assert found.cause == "batch_spike"
    assert abs(found.stretches[0].first - 150_000) <= 200


@pytest.mark.parametrize(("first", "width"), [(12_345, 1), (12_345, 7), (12_399, 90)])
def test_spike_of_a_long_curve_is_found_at_its_own_step(first: int, width: int) -> None:
    """Of 20,000 steps ten make a block."""
    losses = spiked(noisy(decay, steps=20_000), first, 40.0, width=width)
    found = diagnose(Curve(range(0, 200_000, 10), losses, constant(steps=20_000), calm_norms(20_000)))
    assert found.cause == "batch_spike"
    assert found.stretches[0].first == 10 * first
    assert f"at step {10 * first:,}" in found.summary
    assert found.stretches[0].last in (10 * first, 10 * (first + width - 1))  # a stretch within a block is its begin


def test_gradient_that_explodes_in_a_long_curve_is_found_at_its_own_step() -> None:
    norms = calm_norms(20_000)
    norms[12_347] = 1e4
    f = read_features(Curve(range(20_000), noisy(decay, steps=20_000), constant(steps=20_000), norms))
    assert f is not None
    assert f.norms is not None
    assert [f.step(place) for place in f.norms.exploded] == [12_347]


def test_blocks_of_a_reader_count_the_values_that_it_left_out() -> None:
    losses = noisy(decay, steps=6000)
    for thinned, block in ((1.0, 3), (10.0, 30)):
        f = read_features(Curve(range(6000), losses, thinned=thinned))
        assert f is not None
        assert f.series.block == block


def test_alarm_of_a_spike_is_found_at_any_step_of_a_long_curve() -> None:
    """Of 5,000 steps three make a block."""
    curve = Curve(range(5000), noisy(decay, steps=5000), constant(steps=5000))

    def told(step: int) -> list[bool]:
        alarm = Alarm(step, "loss_spike", "warn", {"z": 9.0}, "")
        f = read_features(replace(curve, losses=spiked(list(curve.losses), step, 2.0), alarms=[alarm]))
        assert f is not None
        return [spike.told for spike in f.spikes if abs(f.step(spike.place) - step) < 3]

    assert [told(step) for step in (3000, 3001, 3002)] == [[True]] * 3


@pytest.mark.parametrize("losses", [[1.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0, 40.0], [2.3, 5.0, 1.0], [1.0, 1.0, 1.0]])
def test_fewer_than_four_numbers_say_nothing(losses: list[float]) -> None:
    found = diagnose(Curve.of_losses(losses, Known(lr=0.1, family="sgd")))
    assert (found.cause, found.alternatives) == ("cannot_tell", ())
    assert "too few to say" in found.summary


def test_outputs_that_saturate_a_softmax_are_those_of_the_detector() -> None:
    assert composed("detector=[logit_growth]")["detectors"]["logit_growth"]["log_z"] == LARGE_LOG_Z


def test_json_form_is_json() -> None:
    tree = to_json(diagnose(Curve.of_losses(CLASSIC)))
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert tree["alternatives"] == sorted(tree["alternatives"], key=lambda entry: -entry["confidence"])


def test_what_cannot_be_told_has_no_confidence_to_show() -> None:
    found = diagnose(KINDS["cannot_tell"]())
    tree = to_json(found)
    assert tree["confidence"] is None
    assert headline(found) == "cannot tell"
    assert in_words(tree) == f"cannot tell: {found.summary}"
    sure = diagnose(Curve.of_losses(CLASSIC))
    assert headline(sure) == f"learning rate too high (confidence {sure.confidence:.0%})"
    assert in_words(to_json(sure)).startswith(f"learning rate too high ({sure.confidence:.0%}): ")


def test_list_of_values_is_a_multirun_and_brackets_are_not() -> None:
    assert Suggestion(("optimizer.lr=0.1,0.3",), "").is_multirun
    assert not Suggestion(("remedy=[heal,stop]", "optimizer.lr=0.1"), "").is_multirun


def test_confidence_rises_with_score_and_lead_and_falls_with_few_values() -> None:
    def of(score: float, runner_up: float = 0.2, count: int = 400) -> float:
        return confidence(score, runner_up, count=count, is_finite=True, is_bare=False)

    assert of(0.4) < of(0.6) < of(0.9)
    assert of(0.8, 0.7) < of(0.8, 0.1)
    assert of(0.9, count=5) <= 0.5 < of(0.9)


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_any_order_is_never_surely_too_high(seed: int) -> None:
    rng = random.Random(seed)
    draws = (partial(rng.gauss, 2.3, 0.2), partial(rng.lognormvariate, 0, 0.5), partial(rng.expovariate, 1.0))
    losses = [draws[seed % 3]() for _ in range(rng.choice([20, 60, 200, 700]))]
    found = diagnose(Curve.of_losses(losses))
    assert not (found.cause in ("lr_too_high", "unstable_early", "lr_too_high_at_end") and found.confidence > 0.5)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 10)


ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=80)
FAMILIES: list[Family | None] = ["sgd", "momentum", "adaptive", None]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.booleans(), st.sampled_from(FAMILIES))
@example([(loss, abs(loss), abs(loss), loss) for loss in [1e308, -1e308, 1e308, 5e-324] * 5], True, "sgd")
@example([(0.0, 0.0, 0.0, 0.0)] * 30, True, "sgd")
@example([(loss, abs(loss), abs(loss), loss) for loss in (0.0, 1.1125369292536007e-308, -1.0, 0.0)], True, "sgd")
@example([(loss, 1.0, 1.0, loss) for loss in [-1.0, -2.0, 0.0, 3.0] * 10], False, "sgd")
@example([(2.3 - step / 100, NAN if step == 20 else 0.1, 1.0, 2.3) for step in range(60)], True, "adaptive")
@example([(2.3 - step / 100, INF, NAN, INF) for step in range(60)], True, "momentum")
def test_any_numbers_give_a_verdict(
    rows: Sequence[tuple[float, ...]], with_columns: bool, family: Family | None
) -> None:
    losses, lrs, norms, vals = ([row[place] for row in rows] for place in range(4))
    curve = Curve(range(len(losses)), losses, evals=list(enumerate(vals)))
    curve = replace(curve, lrs=lrs, grad_norms=norms) if with_columns else curve
    found = diagnose(replace(curve, known=Known(prior_entropy=2.3, family=family, warmup_steps=0, total_steps=100)))
    assert found.cause in CAUSES
    assert 0.0 <= found.confidence <= 1.0
    assert all(0.0 <= share <= 1.0 for _, share in found.alternatives)
    assert math.fsum(share for _, share in found.alternatives) <= 1.0 - found.confidence + 1e-9
    json.dumps(to_json(found), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CAUSES), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_unit_of_the_loss_and_the_first_step_change_no_cause(cause: Cause, unit: float, first: int) -> None:
    curve = KINDS[cause]()
    prior = curve.known.prior_entropy
    if prior is not None:
        unit = 1.0  # entropies are in nats
    shifted = [step + first for step in curve.steps]
    evals = [(step + first, loss * unit) for step, loss in curve.evals]
    other = replace(curve, steps=shifted, losses=[loss * unit for loss in curve.losses], evals=evals)
    assert diagnose(replace(other, known=replace(curve.known, total_steps=None))).cause == diagnose(
        replace(curve, known=replace(curve.known, total_steps=None))
    ).cause  # fmt: skip


def test_statistics_of_a_line_with_noise() -> None:
    rng = random.Random(0)
    values = [3.0 - 0.01 * step + rng.gauss(0, 0.2) for step in range(2000)]
    slope, error = trend(values)
    assert abs(slope + 0.01) < 4 * error < 1e-3
    assert abs(noise(values) - 0.2) < 0.02
    assert abs(spread([rng.gauss(0, 2.0) for _ in range(2000)]) - 2.0) < 0.2
    assert persistence(values) > 0.9
    assert abs(persistence([rng.random() for _ in range(1000)])) < 0.1


def test_a_jump_of_a_single_noisy_step_is_no_spoiled_batch() -> None:
    losses = spiked(noisy(decay), 250, 1.6)
    assert diagnose(Curve(range(STEPS), losses, constant(), calm_norms())).cause != "batch_spike"
