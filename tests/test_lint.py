"""What is odd about a learning rate is said, before the run and in its own words; what cannot be wanted is refused."""

import math
from collections.abc import Callable

import pytest

from runner import lint
from runner.build_schedules import build_schedules
from runner.durations import Clock, to_steps
from runner.rates import plan_told
from runner.records import StepRecord
from runner.scan import LONGEST_SCAN, looked_at
from runner.schedules.decays import cosine
from runner.tracking.jsonl import read_records
from tests.conftest import ROOT, Program, Refusal
from tests.contracts.conftest import Declare, declare, needs_of, options  # noqa: F401

DIGITS = Clock(64, 1400)  # 22 steps an epoch, 20 epochs by default
Refuse = Callable[..., Refusal]


@pytest.fixture
def warn(declare: Declare) -> Callable[[str], list[str]]:  # noqa: F811
    """Overrides -> the warnings of a run on digits."""

    def call(overrides: str) -> list[str]:
        config = declare(*overrides.split())
        clock = DIGITS._replace(total_steps=to_steps(config.train.duration, DIGITS))
        return lint.warnings(config, plan_told(config, clock))

    return call


WARNINGS = [
    ("+schedule.horizon=1000", "schedule.horizon: the schedule is made for 1,000 steps and the run stops after 440, at learning rate 0.0614. Set schedule.horizon=null to have it come to its end."),
    ("warmup.duration=60%", "warmup: it takes 264 of the 440 steps, so the run hardly learns at its rate. Set warmup.duration=5% or a longer train.duration."),
    ("schedule=one_cycle warmup=linear", "warmup: the schedule rises by itself, and the warmup is multiplied with it. Set warmup=none."),
    ("schedule=cyclic warmup=linear", "warmup: the schedule rises by itself, and the warmup is multiplied with it. Set warmup=none."),
    ("schedule=range_test warmup=linear schedule.high=1", "warmup: the schedule rises by itself, and the warmup is multiplied with it. Set warmup=none."),
    ("schedule=cosine schedule.cycles=1", "schedule: the learning rate rises again, from 1.41e-06 at step 231 to 0.1 at the last step 439. It stays there; let the run and its cycles end together."),
    ("schedule=cosine_restarts schedule.first=100 schedule.cycles=null", "schedule: the learning rate rises again, from 6.17e-06 at step 320 to 0.08 at the last step 439. It is low again after 721 steps; let the run and its cycles end together."),
    ("schedule=cyclic schedule.up=33", "schedule: the learning rate rises again, from 0.01 at step 396 to 0.0727 at the last step 439. It is low again after 462 steps; let the run and its cycles end together."),
    ("schedule=wsd_s schedule.periods=[100,200] schedule.decay=20", "schedule.periods: the last ends at step 300 of 440, and the learning rate stays at 0 for the other 140. Add a period of 140 steps, or lengthen the last by them."),
    ("schedule=cosine_restarts schedule.first=100 schedule.cycles=2", "schedule.cycles: the last ends at step 321 of 440, and the learning rate stays at 0 for the other 119. Set schedule.first=null to have them fill the run, or schedule.cycles=null."),
    ("schedule=piecewise_linear schedule.times=[0,100%] schedule.values=[0,1] warmup=none", "schedule: the learning rate is 0 in the first update, which changes nothing. A warmup here begins at 1 / W."),
    ("+schedule.end=inclusive", "schedule: the learning rate is 0 in the last update, which changes nothing. Set schedule.end=exclusive, or a floor."),
    ("schedule=piecewise_linear schedule.times=[0,50%] schedule.values=[1,0]", "schedule: the learning rate is 0 from step 220 on, so the last 220 updates change nothing. Make the schedule longer or the run shorter."),
    ("schedule=piecewise_constant schedule.values=[1,3,1]", "schedule: the learning rate peaks at 0.3 in step 220, 3 times optimizer.lr=0.1. Divide that by 3 if it was meant to be the peak."),
    ("schedule=torch ++schedule.scheduler.eta_min=1", "schedule: the learning rate ends at 1, above optimizer.lr=0.1, so it does not fall. Lower the floor, such as eta_min, below that."),
    ("schedule=piecewise_linear schedule.times=[0,50,51,100%] schedule.values=[0.1,1,0.7,0.6] warmup=none", "schedule: the learning rate jumps from 0.1 at step 50 to 0.07 at the next, where its rise ends. Let the decay begin after the warmup."),
    ("schedule=multistep schedule.milestones=[30,60,90] train.duration=100ep", "schedule.milestones: 30, 60, 90 are in optimizer steps, of which an epoch has 22. Set schedule.milestones=[30ep,60ep,90ep] if epochs were meant."),
    ("schedule=step schedule.every=30 warmup=none", "schedule: the learning rate is below a millionth of its peak from step 210 of 440, so the rest of the run changes next to nothing. Let it fall more slowly, or to a floor."),
    ("schedule=step schedule.every=5", "schedule.every: 5 is in optimizer steps, of which an epoch has 22. Set schedule.every=5ep if epochs were meant."),
    ("optimizer=adagrad optimizer.lr_decay=0.01", "optimizer.lr_decay: Adagrad lowers the learning rate by it beside the schedule, and neither preview nor records show that. Set optimizer.lr_decay=0."),
    ("optimizer=schedulefree_adamw optimizer.warmup_steps=20", "optimizer.warmup_steps: AdamWScheduleFree has a warmup of its own of 20 steps, and it is multiplied with the one of the page. Set optimizer.warmup_steps=0."),
    ("optimizer=schedulefree_adamw optimizer.warmup_steps=20 warmup=none", "optimizer.warmup_steps: AdamWScheduleFree has a warmup of its own of 20 steps, and neither preview nor records show it. Set optimizer.warmup_steps=0 warmup=linear warmup.duration=20."),
    ("optimizer=schedulefree_sgd schedule=cosine", "schedule: SGDScheduleFree averages the weights in place of a decay of the learning rate, which it wants constant after the warmup. Set schedule=constant."),
    ("optimizer=prodigy scaling=linear scaling.reference_batch_size=16", "scaling: Prodigy estimates its learning rate at the batch size that it has. Set scaling=none."),
    ("schedule=cosine_restarts schedule.first=2000", "schedule: the learning rate is still falling, at 0.0896, when the run ends after 440 steps. Its cycle ends after 2,020; let the run and its cycles end together."),
    ("schedule=cyclic schedule.up=300 warmup=none", "schedule: the learning rate is still falling, at 0.0583, when the run ends after 440 steps. Its cycle ends after 600; let the run and its cycles end together."),
    ("warmup=untuned_exponential optimizer=adamw", "schedule: the learning rate never gets near optimizer.lr=0.001: it is at most 0.000106. Let it rise in fewer steps, or set optimizer.lr=0.000106 if that was meant."),
    ("schedule=one_cycle schedule.rise=0.9", "schedule: the learning rate rises until step 370 of 440, so the run hardly learns at its rate. Let it rise in less."),
    ("schedule=transformers schedule.warmup=60%", "schedule: the learning rate rises until step 262 of 440, so the run hardly learns at its rate. Let it rise in less."),
    ("schedule=torch train.duration=100ep schedule.scheduler._target_=torch.optim.lr_scheduler.StepLR +schedule.scheduler.step_size=30", "schedule.scheduler.step_size: 30 is in optimizer steps, of which an epoch has 22. Set schedule.interval=1ep if epochs were meant."),
    ("warmup.duration=5", "warmup.duration: 5 is in optimizer steps, of which an epoch has 22. Set warmup.duration=5ep if epochs were meant."),
    ("param_groups=unfreeze param_groups.unfreeze_every=5", "param_groups.unfreeze_every: 5 is in optimizer steps, of which an epoch has 22. Set param_groups.unfreeze_every=5ep if epochs were meant."),
    ("schedule=piecewise_constant schedule.times=[0,5,10]", "schedule.times: 0, 5, 10 are in optimizer steps, of which an epoch has 22. Set schedule.times=[0,5ep,10ep] if epochs were meant."),
    ("schedule=multistep train.duration=1", "schedule.milestones: 2 of them fall on step 1 of 1. Set a longer train.duration."),
    ("schedule=multistep schedule.milestones=[50%,50%]", "schedule.milestones: 2 of them fall on step 220 of 440. Leave one out."),
    ("overlay=[cooldown] overlays.cooldown.begin=400", "overlays.cooldown: it ends at step 488 and the run after 440, at learning rate 0.00124. Set overlays.cooldown.duration=40."),
    ("overlay=[cooldown] overlays.cooldown.begin=500", "overlays.cooldown.begin: step 500 is not within the run of 440, so cooldown has no effect. Set overlays.cooldown.begin=352."),
    ("overlay=[noise] overlays.noise.begin=100%", "overlays.noise.begin: step 440 is not within the run of 440, so noise has no effect. Set overlays.noise.begin=0."),
    ("overlay=[cooldown] overlays.cooldown.duration=5%", "schedule: the learning rate is 0 from step 374 on, so the last 66 updates change nothing. Make the schedule longer or the run shorter."),
    ("schedule_of=[weight_decay_cosine]", "schedule_of.weight_decay: optimizer.weight_decay is 0, and so is every multiple of it. Set optimizer.weight_decay."),
    ("optimizer=rprop", "optimizer: Rprop reads the learning rate at its first update only, so a warmup sets its first step size and a schedule has no effect. Set warmup=none schedule=constant."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "text"), WARNINGS, ids=[overrides for overrides, _ in WARNINGS])
def test_what_is_odd_is_said_with_its_numbers_and_the_fix(
    warn: Callable[[str], list[str]], overrides: str, text: str
) -> None:
    assert text in warn(overrides)


def test_a_tabulated_scheduler_cut_in_its_cycle_is_not_said_to_come_down_again(
    warn: Callable[[str], list[str]],
) -> None:
    restarts = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    (text,) = warn(f"schedule=torch schedule.scheduler._target_={restarts} +schedule.scheduler.T_0=100")
    assert "rises again, from 2.47e-05 at step 399 to 0.0669 at the last step 439. It stays there;" in text


def test_schedule_of_a_group_is_looked_at_like_that_of_the_run(program: Program) -> None:
    own = "{_target_: runner.schedules.cycles.cosine_restarts, first: 100}"
    rules = f"param_groups.rules={{head: {{match: '4.*', lr_multiplier: 10, schedule: {own}}}, rest: {{match: '*'}}}}"
    done = program("mode=preview", "param_groups=patterns", rules)
    assert [line for line in done.out.splitlines() if line.startswith("warning")] == [
        "warning schedule of group head: the learning rate rises again, from 0.000247 at step 420 to 0.922 at the last "
        "step 439. It is low again after 521 steps; let the run and its cycles end together."
    ]


NOT_FOR_EVERY_DAY = {"chebyshev", "range_test"}
SHORT = {"multistep", "piecewise_constant", "piecewise_linear", "wsd_s", "sequential"}  # their times meet


@pytest.mark.parametrize(
    "length", ["20ep", "1", *(pytest.param(length, marks=pytest.mark.slow) for length in ("440", "2", "30000"))]
)
@pytest.mark.parametrize("schedule", options("schedule"))
def test_defaults_are_not_odd(warn: Callable[[str], list[str]], schedule: str, length: str) -> None:
    if schedule in NOT_FOR_EVERY_DAY or (schedule in SHORT and length in ("1", "2")):
        pytest.skip("odd by intent")
    if (schedule, length) == ("lambda", "30000"):
        pytest.skip("its function falls with the step, whatever the length of the run")
    option = f"schedule={schedule}"
    assert warn(" ".join([option, f"train.duration={length}", *needs_of([option])])) == []


@pytest.mark.parametrize("overlay", ["cooldown", "noise"])
def test_default_overlays_are_not_odd(warn: Callable[[str], list[str]], overlay: str) -> None:
    assert warn(f"overlay=[{overlay}]") == []


@pytest.mark.parametrize("warmup", sorted({*options("warmup")} - {"untuned_exponential"}))  # for longer runs
def test_default_warmups_are_not_odd(warn: Callable[[str], list[str]], warmup: str) -> None:
    assert warn(f"warmup={warmup} optimizer=adamw") == []


def test_numbers_of_a_page_that_speaks_of_steps_are_taken_for_steps(warn: Callable[[str], list[str]]) -> None:
    assert warn("schedule=wsd_s schedule.periods=[220,220] schedule.decay=15 warmup.duration=30") == []
    assert warn("schedule=step schedule.every=100 train.duration=440 warmup=none") == []


def test_long_runs_are_looked_at_in_a_few_steps_and_all_near_the_joints() -> None:
    steps = looked_at(1_000_000, 50_000)
    assert len(steps) < LONGEST_SCAN + 300
    assert steps == sorted(set(steps))
    assert {0, 1, 49_999, 50_000, 50_001, 999_998, 999_999} <= set(steps)
    assert looked_at(7, 3) == list(range(7))


REFUSED = [
    ("+schedule.horizon=100", "schedule.horizon: must not be shorter than the run of 440 steps, got 100 (100 steps). Set schedule.horizon=null, or a shorter train.duration."),
    ("+schedule.horizon=50%", "schedule.horizon: must not be shorter than the run of 440 steps, got 50% (220 steps). Set schedule.horizon=null, or a shorter train.duration."),
    ("warmup=untuned optimizer=adamw warmup.longest=5000", "warmup.longest: must not be longer than the run of 440 steps, got 5000 (2000 steps). Set warmup.longest=5% or a longer train.duration."),
    ("+schedule.min_lr=0.5", "schedule.min_lr: must be at most optimizer.lr=0.1, got 0.5. Set schedule.min_lr=0.01 or less."),
    ("+schedule.min_lr=0.5 scaling=linear scaling.reference_batch_size=32", "schedule.min_lr: must be at most optimizer.lr=0.2 after scaling, got 0.5. Set schedule.min_lr=0.02 or less."),
    ("+schedule.min_lr=0.01 schedule.floor=0.2", "schedule.min_lr: must be null with schedule.floor=0.2, which says the same, got 0.01. Set schedule.floor=0, or schedule.min_lr=null."),
    ("schedule=cosine_then_linear +schedule.min_lr=0.01", "schedule.min_lr: must be null for a schedule that does not end at its floor, got 0.01. Set schedule.min_lr=null schedule.final=0.1, which is a factor."),
    ("schedule=wsd_s +schedule.min_lr=0.01 schedule.peaks=[1,0.5]", "schedule.min_lr: must be null with schedule.peaks, which the floor is multiplied with, got 0.01. Set schedule.peaks=null, or schedule.min_lr=null and schedule.floor, which is a factor."),
    ("schedule=wsd schedule.shape=exponential +schedule.min_lr=0", "schedule.min_lr: must be > 0 for an exponential shape, got 0. Set schedule.min_lr=0.001."),
    ("overlay=[cooldown] overlays.cooldown.shape=exponential", "overlays.cooldown.floor: must be > 0 for an exponential shape, got 0. Set overlays.cooldown.floor=0.01."),
    ("overlay=[noise] overlays.noise.begin=9 overlays.noise.end=3", "overlays.noise.end: must not come before begin, which is step 9, got step 3. Set overlays.noise.end=null overlays.noise.begin=0."),
    ("schedule=multistep schedule.milestones=[50%,500,3]", "schedule.milestones: must be in order and must lie inside the 440 steps that it is made for, got 220, 500, 3 steps. Set schedule.milestones=[3,220,440]."),
    ("schedule=sequential schedule.boundaries=[]", "schedule.boundaries: must be one fewer than the 2 stages, got 0. Set schedule.boundaries=[50%]."),
    ("schedule=wsd_s schedule.decay=60%", "schedule.decay: must not be longer than the 199 steps of the shortest period after the warmup, got 264. Set schedule.decay=199 or less."),
    ("schedule=wsd_s schedule.periods=[5,400] schedule.decay=3", "schedule.periods: must leave a step after the warmup of 22, got a first of 5. Set warmup=none, or a first period longer than 22 steps."),
    ("schedule=tanh schedule.lower=3", "schedule.upper: must be greater than lower=3, got 3. Set schedule.upper=13."),
    ("schedule=range_test schedule.low=20", "schedule.high: must be greater than low=20, got 10. Set schedule.high=2e+06."),
    ("schedule=one_cycle schedule.three_phase=true schedule.rise=0.6", "schedule.rise: must be at most 0.5 in three phases, got 0.6. Set schedule.rise=0.5 or less."),
    ("schedule=cosine_restarts schedule.cycle_warmup=400", "schedule.cycle_warmup: must be shorter than a cycle of 60 steps, got 400. Set schedule.cycle_warmup=59 or less."),
    ("schedule=cosine_restarts schedule.cycles=null", "schedule.first: must be given where cycles is not, got null. Set schedule.first=10%, or schedule.cycles=3."),
    ("schedule=chebyshev schedule.low=2", "schedule.low: must be less than high=1, got 2. Set schedule.low=0.05."),
    ("schedule=piecewise_constant schedule.values=[0,0,0]", "schedule: must be > 0 at a step of the run, got 0 at all 440, which changes no weight. Give it a factor > 0, or take another one."),
    ("schedule=constant +schedule.min_lr=0.01", "schedule.min_lr: must be null for a schedule without a floor, got 0.01. Set schedule.min_lr=null, or one with a floor such as schedule=cosine, linear, wsd or polynomial."),
    ("schedule=multistep schedule.milestones=[80%,50%]", "schedule.milestones: must be in order, got 352, 220 steps. Set schedule.milestones=[220,352]."),
    ("schedule=multistep schedule.milestones=[50%,500]", "schedule.milestones: must lie inside the 440 steps that it is made for, got 220, 500 steps. Set schedule.milestones=[220,440]."),
    ("schedule=multistep schedule.milestones=500", "schedule.milestones: must be a list that is not empty, each item a duration such as 500 (steps), 10% or 2ep, got 500. Set schedule.milestones=[500]."),
    ("schedule=multistep schedule.milestones=[4,8] train.duration=8 +schedule.end=inclusive warmup=none", "schedule.milestones: must lie inside the 7 steps that it is made for, got 4, 8 steps. Set schedule.milestones=[4,7]."),
    ("schedule=cosine_restarts schedule.cycles=20000", "schedule.cycles: must be an integer >= 1 and <= 10000 or null, got 20000. Leave schedule.cycles out for its default."),
    ("schedule=inverse_sqrt warmup=none", "schedule.timescale: must be given where there is no warmup to take it from, got null. Set schedule.timescale=10%, or warmup=linear warmup.duration=5%."),
    ("schedule=power warmup=none", "schedule.timescale: must be given where there is no warmup to take it from, got null. Set schedule.timescale=10%, or warmup=linear warmup.duration=5%."),
    ("schedule=sequential schedule.boundaries=[1%]", "schedule.boundaries: must not begin the second stage within the warmup of 22 steps, got step 5. Set warmup.duration=5 or less, or a later boundary."),
    ("schedule=lambda schedule.function._target_=math.cos train.duration=1e9", "schedule: must be made for at most 20,000,000 steps, which are computed beforehand, got 1,000,000,000. Set a shorter train.duration, or take another one."),
    ("schedule=wsd schedule.decay=99%", "schedule.decay: must not be longer than the 419 steps after the warmup, got 436. Set schedule.decay=419 or less."),
    ("schedule=piecewise_linear schedule.values=[1,nan,0]", "schedule.values: must be a list that is not empty, each item a finite number >= 0, got [1, nan, 0]. Set schedule.values=[1,1,0]."),
    ("schedule=piecewise_linear schedule.values=[1,-1,0]", "schedule.values: must be a list that is not empty, each item a finite number >= 0, got [1, -1, 0]. Set schedule.values=[1,1,0]."),
    ("schedule=optax schedule.name=sgdr schedule.cosine_kwargs=[{decay_steps:5,init_value:nan}]", "schedule.cosine_kwargs: must be a list of sections, but init_value of item 0 must be greater than or equal to 0, got [a section]. Set schedule.cosine_kwargs=[{decay_steps:100,warmup_steps:10}]."),
    ("schedule=multistep schedule.milestones=[]", "schedule.milestones: must be a list that is not empty, each item a duration such as 500 (steps), 10% or 2ep, got []. Leave schedule.milestones out for its default."),
    ("schedule=multistep schedule.milestones=[null]", "schedule.milestones: must be a list, each item a duration > 0 such as 500 (steps), 10%, 2ep or 64000ex, got [null]. Leave schedule.milestones out for its default."),
    ("schedule=sequential schedule.stages.first=wsd", "schedule.stages.first: must be a section with a _target_, got 'wsd'. Set schedule@schedule.stages.first=wsd in its place."),
    ("schedule=product schedule.schedules.third=rx", "schedule.schedules.third: must be a section with a _target_, got 'rx'. Set +schedule@schedule.schedules.third=rex in its place."),
    ("schedule=product schedule.schedules={}", "schedule.schedules: must say what is in it, got {}, which leaves first, second. Leave schedule.schedules out, or set ~schedule.schedules.first to take that out."),
    ("schedule=sequential schedule.stages=null", "schedule.stages: must be a section with keys of its own, got null. Leave schedule.stages out for its default."),
    ("schedule=sequential ~schedule.stages.first ~schedule.stages.second", "schedule.stages: must not be empty, got {}. Leave one in it, or set +schedule@schedule.stages.another=cosine."),
    ("schedule=sequential schedule@schedule.stages.first=step schedule.stages.first.every=-1", "schedule.stages.first.every: must be a duration > 0 such as 500 (steps), 10%, 2ep or 64000ex, got -1. Set schedule.stages.first.every=10%."),
    ("schedule_of.momentum.floor=1", "schedule_of.momentum._target_: must be there, got nothing. Set +schedule@schedule_of.momentum=cosine."),
    ("schedule=refined", "schedule.source: must be text, got null. Set schedule.source=runs/<name>/<run>, a run that has recorded its gradient norms."),
    ("schedule=refined schedule.source=nowhere", "schedule.source: must be a run directory with records.jsonl, got 'nowhere'. Set schedule.source=runs/<name>/<run>, a run that has recorded its gradient norms."),
    ("schedule_of.foo=3", "schedule_of.foo: must be a section with a _target_, got 3. Set +schedule@schedule_of.foo=cosine in its place."),
    ("schedule_of.momentun._target_=runner.schedules.decays.constant", "schedule_of.momentun: must be a hyperparameter of torch.optim.SGD (dampening, momentum, weight_decay), got 'momentun'. Did you mean schedule_of.momentum?"),
    ("schedule_of.lr._target_=runner.schedules.decays.constant", "schedule_of.lr: must not be the learning rate, whose schedule is `schedule`, got 'lr'. Set ~schedule_of.lr, and schedule to what is wanted."),
    ("schedule=one_cycle schedule_of=[one_cycle_momentum] optimizer=adagrad", "schedule_of.momentum: must be a hyperparameter of torch.optim.Adagrad (eps, initial_accumulator_value, lr_decay, weight_decay), got 'momentum'. Leave it out, or set one of these."),
    ("schedule_of.betas._target_=runner.schedules.decays.constant optimizer=adamw", "schedule_of.betas: must be a hyperparameter of torch.optim.AdamW (beta1, beta2, eps, momentum, weight_decay), got 'betas'. Did you mean schedule_of.beta2?"),
    ("schedule_of.adamw_lr._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.adamw_lr: must not be the learning rate, whose schedule is `schedule`, got 'adamw_lr'. Set ~schedule_of.adamw_lr, and schedule to what is wanted."),
    ("schedule_of.nesterov._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.nesterov: must be a hyperparameter of runner.optim.muon.MuonAdamW (beta1, beta2, eps, momentum, weight_decay), got 'nesterov'. Leave it out, or set one of these."),
    ("schedule_of.ns_steps._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.ns_steps: must be a hyperparameter of runner.optim.muon.MuonAdamW (beta1, beta2, eps, momentum, weight_decay), got 'ns_steps'. Leave it out, or set one of these."),
    ("schedule=sequential schedule@schedule.stages.third=rex", "schedule@schedule.stages.third: must be there to be changed. Set +schedule@schedule.stages.third to add it."),
    ("warmup=untuned", "warmup.beta2: must have a value, but takes it from optimizer.betas[1], which is not there. Set warmup.beta2=0.999, or choose an optimizer with betas."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.not_a_number_at_7", "schedule.function: must return a finite number >= 0 at every step, got nan at step 7. Mend not_a_number_at_7, or set schedule.function._target_ to another function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.nothing_of_use schedule.function.kind=none", "schedule.function: must return a finite number >= 0 at every step, got None at step 0. Mend nothing_of_use, or set schedule.function._target_ to another function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.nothing_of_use schedule.function.kind=complex", "schedule.function: must return a finite number >= 0 at every step, got 1j at step 0. Mend nothing_of_use, or set schedule.function._target_ to another function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.nothing_of_use schedule.function.kind=text", "schedule.function: must return a finite number >= 0 at every step, got '0.5' at step 0. Mend nothing_of_use, or set schedule.function._target_ to another function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.nothing_of_use schedule.function.kind=two", "schedule.function: must return a finite number >= 0 at every step, got tensor([1., 1.]) at step 0. Mend nothing_of_use, or set schedule.function._target_ to another function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.nothing_of_use schedule.function.kind=zero", "schedule: must be > 0 at a step of the run, got 0 at all 440, which changes no weight. Give it a factor > 0, or take another one."),
    ("schedule=constant schedule._target_=runner.schedules.decays.step", "schedule.every: must be given, got nothing. Set schedule.every=10%."),
    ("schedule=torch schedule.scheduler=ExponentialLR", "schedule.scheduler: must be a section with a _target_, got 'ExponentialLR'. Set schedule.scheduler._target_=torch.optim.lr_scheduler.ExponentialLR in its place."),
    ("schedule=transformers schedule.name=linear +schedule.min_lr=0.01", "schedule.min_lr: must be null with name=linear, which takes warmup, got 0.01. Set schedule.min_lr=null."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.Counting", "schedule.function: must return the same for the same step, got 0.5 and 0.00225734 for step 0. Mend Counting, or set schedule.function._target_ to another function."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_what_nobody_can_want_is_refused_before_anything_is_made(
    refuse_row: Refuse, overrides: str, message: str
) -> None:
    refusal = refuse_row(*overrides.split())
    assert (refusal.code, refusal.left_behind) == (2, [])
    assert refusal.err.splitlines()[1:] == [f"  {message}"]


FACTORIES = [
    ("warmup._target_=runner.schedules.decays.constant ~warmup.duration ~warmup.start", "warmup: must make a Warmup, got function. Leave warmup._target_ out, or give one like that of warmup=linear."),
    ("schedule=constant schedule._target_=builtins.dict", "schedule: must make a function of the step, got dict. Leave schedule._target_ out, or give one like that of schedule=cosine."),
    ("schedule=constant schedule._target_=runner.schedules.warmups.none", "schedule: must make a function of the step, got Warmup. Leave schedule._target_ out, or give one like that of schedule=cosine."),
    ("schedule=constant schedule._target_=tests.own_parts.lost_at_3", "schedule: must give a finite number >= 0 at every step, got nan at step 3. Mend it, or take another one."),
    ("schedule_of.momentum._target_=tests.own_parts.lost_at_3 optimizer=nesterov", "schedule_of.momentum: must give a finite number >= 0 at every step, got nan at step 3. Mend it, or take another one."),
    ("schedule=constant schedule._target_=tests.own_parts.exiting", "schedule: must give a factor at every step, but raises at step 0: SystemExit: 3 ("),
    ("schedule=constant schedule._target_=tests.own_parts.short_table", "schedule: must give a factor at every step, but raises at step 4: IndexError: list index out of range"),
    ("+overlays.x={_target_:runner.schedules.decays.linear}", "overlays.x: must make a function of a schedule, but it raises TypeError: "),
    ("+overlays.x={_target_:builtins.dict}", "overlays.x: must make a function of a schedule, got dict. Leave overlays.x._target_ out, or give one like that of overlay=[noise]."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), FACTORIES, ids=[overrides for overrides, _ in FACTORIES])
@pytest.mark.parametrize("mode", ["train", "preview"])
def test_factory_of_what_a_run_cannot_use_is_refused(refuse: Refuse, overrides: str, message: str, mode: str) -> None:
    refusal = refuse(f"mode={mode}", *overrides.split())
    assert (refusal.code, refusal.left_behind) == (2, [])
    assert refusal.err.splitlines()[1].startswith(f"  {message}")


def test_table_with_a_rate_for_every_update_is_held_after_the_last(program: Program) -> None:
    done = program("mode=preview", "schedule=constant", "schedule._target_=tests.own_parts.rate_table", "warmup=none")
    assert done.code == 0, done.err
    assert (done.run / "schedule.csv").read_text().splitlines()[-2:] == [
        f"{t},{0.1 * (1 - 439 / 440)}" for t in (439, 440)
    ]


def test_stages_and_factors_are_chosen_and_added_by_name(declare: Declare) -> None:  # noqa: F811
    chosen = declare("schedule=sequential", "schedule@schedule.stages.second=wsd", "schedule.stages.second.decay=20%")
    added = declare("schedule=sequential", "+schedule@schedule.stages.third=rex", "schedule.boundaries=[30%,60%]")
    multiplied = declare("schedule=product", "schedule@schedule.schedules.second=step")
    clock = DIGITS._replace(total_steps=100)
    assert build_schedules(chosen, clock).body(85) == 1.0 > build_schedules(chosen, clock).body(95)
    third = build_schedules(added, clock).body
    assert (third(30), third(60)) == (1.0, 1.0)
    assert max(third(59), third(99)) < 0.06
    assert build_schedules(multiplied, clock).body(99) < 1e-3


@pytest.mark.parametrize("overrides", ["schedule.cycles=5000", "+schedule.end=inclusive warmup.duration=100%"])
def test_restarts_of_any_number_fit_a_body_of_any_length(declare: Declare, overrides: str) -> None:  # noqa: F811
    config = declare("schedule=cosine_restarts", *overrides.split())
    factor = build_schedules(config, DIGITS._replace(total_steps=440)).lr()
    assert factor(439) <= 1.0


def test_preset_of_another_library_can_be_a_stage(declare: Declare) -> None:  # noqa: F811
    config = declare("schedule=sequential", "schedule@schedule.stages.second=transformers")
    assert build_schedules(config, DIGITS._replace(total_steps=100)).body(99) < 0.05


SEVERAL = [
    (
        "schedule=sequential schedule.boundaries=[50%,60%] schedule@schedule.stages.first=wsd "
        "schedule.stages.first.decay=200% schedule@schedule.stages.second=multistep "
        "schedule.stages.second.milestones=[80%,20%]",
        [
            "schedule.boundaries: must be one fewer than the 2 stages, got 2. Set schedule.boundaries=[50%].",
            "schedule.stages.first.decay: must not be longer than the 199 steps after the warmup, got 440. Set schedule.stages.first.decay=199 or less.",
            "schedule.stages.second.milestones: must be in order, got 176, 44 steps. Set schedule.stages.second.milestones=[44,176].",
        ],
    ),
    (
        "schedule=product schedule@schedule.schedules.first=tanh schedule.schedules.first.lower=9 "
        "schedule@schedule.schedules.second=multistep schedule.schedules.second.milestones=[80%,20%]",
        [
            "schedule.schedules.first.upper: must be greater than lower=9, got 3. Set schedule.schedules.first.upper=19.",
            "schedule.schedules.second.milestones: must be in order, got 352, 88 steps. Set schedule.schedules.second.milestones=[88,352].",
        ],
    ),
    (
        "schedule=piecewise_linear schedule.times=[50%,0,200%] schedule.values=[1]",
        [
            "schedule.times: must be in order and must lie inside the 440 steps that it is made for, got 220, 0, 880 steps. Set schedule.times=[0,220,440].",
            "schedule.values: must be one for each of the 3 times, got 1. Set schedule.values=[1,1,1].",
        ],
    ),
    (
        "schedule=wsd_s schedule.periods=[90%,90%] schedule.peaks=[]",
        [
            "schedule.peaks: must be one for each of the 2 periods, got 0. Set schedule.peaks=null.",
            "schedule.periods: must fit into the run of 440 steps, got 792 together. Set schedule.periods=[50%,50%].",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "messages"), SEVERAL, ids=[overrides.split()[0] for overrides, _ in SEVERAL])
def test_all_problems_of_a_schedule_and_its_parts_come_at_once(
    refuse: Refuse, overrides: str, messages: list[str]
) -> None:
    refusal = refuse(*overrides.split())
    assert (refusal.code, refusal.left_behind) == (2, [])
    assert refusal.err.splitlines()[1:] == [f"  {message}" for message in messages]


def test_problem_of_one_schedule_hides_no_other(refuse: Refuse) -> None:
    refusal = refuse(
        "schedule=multistep", "schedule.milestones=[80%,50%]", "schedule.horizon=10", "warmup.duration=9999",
        "overlay=[noise]", "overlays.noise.begin=9", "overlays.noise.end=3", "optimizer.lr=nan",
    )  # fmt: skip
    keys = [line.split(":")[0].strip() for line in refusal.err.splitlines()[1:]]
    assert keys == ["optimizer.lr", "overlays.noise.end", "schedule.horizon", "schedule.milestones", "warmup.duration"]


def test_bad_schedule_of_the_last_job_starts_none(program: Program) -> None:
    done = program("-m", "schedule=multistep", "schedule.milestones=[10,20],[30,40],[400,30]", "train.duration=440")
    assert done.code == 2
    assert "schedule.milestones: must be in order, got 400, 30 steps" in done.err
    assert "[job 3 of 3: schedule.milestones=[400,30]]" in done.err
    assert not (done.directory / "runs").exists()


def test_run_prints_what_is_odd_and_goes_on(program: Program) -> None:
    done = program("task=quadratic", "train.duration=20", "+schedule.horizon=40")
    assert done.code == 0
    assert "schedule.horizon: the schedule is made for 40 steps and the run stops after 20" in done.out + done.err


def test_run_that_stopped_is_cooled_down_from_where_it_was(program: Program) -> None:
    page = ["task=quadratic", "warmup=none", "optimizer.lr=0.01", "schedule.horizon=400"]
    stopped = program(*page, "train.duration=100").run
    cooled = program(
        f"resume.from={stopped}", "train.duration=150", "overlay=[cooldown]",
        "overlays.cooldown.begin=100", "overlays.cooldown.duration=50",
    )  # fmt: skip
    assert "warning" not in cooled.err
    lrs = {record.step: record.lr for record in read_records(cooled.run) if isinstance(record, StepRecord)}
    reached = 0.01 * cosine(total_steps=400)(100)
    assert lrs == {100 + i: pytest.approx(reached * (1 - i / 50)) for i in range(50)}


def test_momentum_of_adam_is_its_beta1(declare: Declare) -> None:  # noqa: F811
    from runner.build import build
    from runner.optim.apply import apply_schedules

    experiment = build(declare("optimizer=adamw", "schedule=one_cycle", "schedule_of=[one_cycle_momentum]"))
    group = experiment.optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    apply_schedules(experiment.optimizer, experiment.schedules, 131)
    assert group["betas"] == (pytest.approx(beta1 * 0.85 / 0.95), beta2)
    assert math.isclose(group["lr"], group["initial_lr"])


@pytest.mark.parametrize(
    "changed", [["schedule.horizon=40ep"], ["schedule.end=inclusive", "schedule.three_phase=true"]]
)
def test_cycled_momentum_keeps_to_its_schedule(declare: Declare, changed: list[str]) -> None:  # noqa: F811
    config = declare("schedule=one_cycle", "schedule.shape=linear", "schedule_of=[one_cycle_momentum]", *changed)
    schedules = build_schedules(config, Clock(64, examples=1280, total_steps=400))
    lr, momentum, low = schedules.lr(), schedules.others["momentum"], 0.85 / 0.95
    rise = [step for step in range(400) if lr(step) >= lr(step - 1)]
    assert max(map(lr, range(400))) == 1.0
    assert all(math.isclose((1 - lr(t)) / (1 - 1 / 25), (momentum(t) - low) / (1 - low), abs_tol=1e-9) for t in rise)


def test_schedule_of_a_beta_leaves_the_groups_without_betas_alone(declare: Declare) -> None:  # noqa: F811
    from runner.build import build
    from runner.optim.apply import apply_schedules

    experiment = build(
        declare("optimizer=muon", "task=char_lm", "+schedule_of.beta1={_target_:runner.schedules.decays.linear}")
    )
    assert [group for group, name in experiment.schedules if name == "beta1"] == ["others"]
    apply_schedules(experiment.optimizer, experiment.schedules, experiment.plan.steps // 2)
    assert experiment.optimizer.param_groups[1]["betas"][0] < 0.9


def test_schedule_is_refined_from_the_norms_of_a_run(declare: Declare) -> None:  # noqa: F811
    config = declare("schedule=refined", f"++schedule.source={ROOT / 'tests' / 'recorded_run'}")
    factor = build_schedules(config, DIGITS._replace(total_steps=440)).lr()
    values = [factor(t) for t in range(441)]
    assert config.warmup.target.endswith(".none")
    assert max(values) == 1.0
    assert values[440] == 0.0
    assert min(values[:440]) > 0
