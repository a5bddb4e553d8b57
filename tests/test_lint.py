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
    ("schedule=step schedule.every=5", "schedule.every: 5 is in optimizer steps, of which an epoch has 22. Set schedule.every=5ep if epochs were meant."),
    ("warmup.duration=5", "warmup.duration: 5 is in optimizer steps, of which an epoch has 22. Set warmup.duration=5ep if epochs were meant."),
    ("schedule=piecewise_constant schedule.times=[0,5,10]", "schedule.times: 0, 5, 10 are in optimizer steps, of which an epoch has 22. Set schedule.times=[0,5ep,10ep] if epochs were meant."),
    ("schedule=multistep train.duration=1", "schedule.milestones: 2 of them fall on step 1 of 1. Set a longer train.duration."),
    ("schedule=multistep schedule.milestones=[50%,50%]", "schedule.milestones: 2 of them fall on step 220 of 440. Leave one out."),
    ("overlay=[cooldown] overlays.cooldown.begin=400", "overlays.cooldown: it ends at step 488 and the run after 440, at learning rate 0.00124. Set overlays.cooldown.duration=40."),
    ("overlay=[cooldown] overlays.cooldown.begin=500", "overlays.cooldown: it begins at step 500 and the run ends after 440, so it has no effect. Set overlays.cooldown.begin to an earlier step."),
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
    option = f"schedule={schedule}"
    assert warn(" ".join([option, f"train.duration={length}", *needs_of([option])])) == []


@pytest.mark.parametrize("overlay", ["cooldown", "noise"])
def test_default_overlays_are_not_odd(warn: Callable[[str], list[str]], overlay: str) -> None:
    assert warn(f"overlay=[{overlay}]") == []


@pytest.mark.parametrize("warmup", options("warmup"))
def test_default_warmups_are_not_odd(warn: Callable[[str], list[str]], warmup: str) -> None:
    assert warn(f"warmup={warmup} optimizer=adamw") == []


def test_numbers_of_a_page_that_speaks_of_steps_are_taken_for_steps(warn: Callable[[str], list[str]]) -> None:
    assert warn("schedule=wsd_s schedule.periods=[220,220] schedule.decay=15 warmup.duration=30") == []
    assert warn("schedule=step schedule.every=5 train.duration=440 warmup=none") == []


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
    ("schedule=cosine_then_linear +schedule.min_lr=0.01", "schedule.min_lr: must be null for a schedule that does not end at its floor, got 0.01. Set schedule.final, which is a factor."),
    ("schedule=wsd_s +schedule.min_lr=0.01 schedule.peaks=[1,0.5]", "schedule.min_lr: must be null with schedule.peaks, which the floor is multiplied with, got 0.01. Set schedule.peaks=null, or schedule.floor, which is a factor."),
    ("schedule=wsd schedule.shape=exponential +schedule.min_lr=0", "schedule.min_lr: must be > 0 for an exponential shape, got 0. Change schedule.min_lr."),
    ("schedule=constant +schedule.min_lr=0.01", "schedule.min_lr: must be null for a schedule without a floor, got 0.01. Choose one with a floor, such as schedule=cosine, linear, wsd or polynomial."),
    ("schedule=multistep schedule.milestones=[80%,50%]", "schedule.milestones: must be in order, got 352, 220 steps. Change schedule.milestones."),
    ("schedule=multistep schedule.milestones=[50%,500]", "schedule.milestones: must lie inside the 440 steps that it is made for, got 220, 500 steps. Change schedule.milestones."),
    ("schedule=multistep schedule.milestones=500", "schedule.milestones: must be a list, each item a duration such as 500 (steps), 10% or 2ep, got 500. Set schedule.milestones=[500]."),
    ("schedule=multistep schedule.milestones=[4,8] train.duration=8 +schedule.end=inclusive warmup=none", "schedule.milestones: must lie inside the 7 steps that it is made for, got 4, 8 steps. Change schedule.milestones."),
    ("schedule=cosine_restarts schedule.cycles=20000", "schedule.cycles: must be an integer >= 1 and <= 10000 or null, got 20000. Leave schedule.cycles out for its default."),
    ("schedule=inverse_sqrt warmup=none", "schedule.timescale: must be given where there is no warmup to take it from, got null. Change schedule.timescale."),
    ("schedule=wsd schedule.decay=99%", "schedule.decay: must not be longer than the 419 steps after the warmup, got 436. Change schedule.decay."),
    ("schedule=piecewise_linear schedule.values=[1,nan,0]", "schedule.values.1: must be a finite number, got nan. Leave schedule.values.1 out for its default."),
    ("schedule=refined", "schedule.source: must be text, got null. Set schedule.source=runs/<name>/<run>, a run that has recorded its gradient norms."),
    ("schedule=refined schedule.source=nowhere", "schedule.source: must be a run directory with records.jsonl, got 'nowhere'. Change schedule.source."),
    ("schedule_of.foo=3", "schedule_of.foo: must be a section with a _target_, got 3. Set schedule_of.foo._target_=my_module.Foo."),
    ("schedule_of.momentun._target_=runner.schedules.decays.constant", "schedule_of.momentun: must be a hyperparameter that torch.optim.SGD has, did you mean schedule_of.momentum? Known here: dampening, momentum, weight_decay."),
    ("schedule_of.lr._target_=runner.schedules.decays.constant", "schedule_of.lr: must not be the learning rate, whose schedule is `schedule`. Set schedule."),
    ("schedule=one_cycle schedule_of=[one_cycle_momentum] optimizer=adagrad", "schedule_of.momentum: must be a hyperparameter that torch.optim.Adagrad has. Known here: eps, initial_accumulator_value, lr_decay, weight_decay."),
    ("schedule_of.betas._target_=runner.schedules.decays.constant optimizer=adamw", "schedule_of.betas: must be a hyperparameter that torch.optim.AdamW has, did you mean schedule_of.beta2? Known here: beta1, beta2, eps, momentum, weight_decay."),
    ("schedule_of.adamw_lr._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.adamw_lr: must not be the learning rate, whose schedule is `schedule`. Set schedule."),
    ("schedule_of.nesterov._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.nesterov: must be a hyperparameter that runner.optim.muon.MuonAdamW has. Known here: beta1, beta2, eps, momentum, weight_decay."),
    ("schedule_of.ns_steps._target_=runner.schedules.decays.constant optimizer=muon", "schedule_of.ns_steps: must be a hyperparameter that runner.optim.muon.MuonAdamW has. Known here: beta1, beta2, eps, momentum, weight_decay."),
    ("schedule=sequential schedule@schedule.stages.third=rex", "schedule@schedule.stages.third: must be there to be changed. Set +schedule@schedule.stages.third to add it."),
    ("warmup=untuned", "warmup.beta2: must have a value, but takes it from optimizer.betas[1], which is not there. Set warmup.beta2=0.999, or choose an optimizer with betas."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.not_a_number_at_7", "schedule.function: must return a finite number >= 0 at every step, got nan at step 7. Change schedule.function."),
    ("schedule=lambda schedule.function._target_=tests.own_parts.Counting", "schedule.function: must return the same for the same step, got 0.5 and 0.00225734 for step 0. Change schedule.function."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_what_nobody_can_want_is_refused_before_anything_is_made(
    refuse_row: Refuse, overrides: str, message: str
) -> None:
    refusal = refuse_row(*overrides.split())
    assert (refusal.code, refusal.left_behind) == (2, [])
    assert refusal.err.splitlines()[1:] == [f"  {message}"]


FACTORIES = [
    ("warmup._target_=runner.schedules.decays.constant ~warmup.duration ~warmup.start", "warmup: must make a Warmup, got function. Change warmup._target_, as in warmup=linear."),
    ("schedule=constant schedule._target_=builtins.dict", "schedule: must make a function of the step, got dict. Change schedule._target_, as in schedule=cosine."),
    ("schedule=constant schedule._target_=runner.schedules.warmups.none", "schedule: must make a function of the step, got Warmup. Change schedule._target_, as in schedule=cosine."),
    ("schedule=constant schedule._target_=tests.own_parts.lost_at_3", "schedule: must give a finite number >= 0 at every step, got nan at step 3. Change schedule."),
    ("schedule_of.momentum._target_=tests.own_parts.lost_at_3 optimizer=nesterov", "schedule_of.momentum: must give a finite number >= 0 at every step, got nan at step 3. Change schedule_of.momentum."),
    ("schedule=constant schedule._target_=tests.own_parts.short_table", "schedule: must give a factor at every step, but raises at step 4: IndexError: list index out of range"),
    ("+overlays.x={_target_:runner.schedules.decays.linear}", "overlays.x: must make a function of a schedule, but it raises TypeError: "),
    ("+overlays.x={_target_:builtins.dict}", "overlays.x: must make a function of a schedule, got dict. Change overlays.x._target_, as in overlay=[noise]."),
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
