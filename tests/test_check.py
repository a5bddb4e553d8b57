"""One row a mistake: what is typed, and the exact message. Nothing is written, no traceback, exit code 2."""

from collections.abc import Callable

import pytest

from tests.conftest import ROOT, Refusal

Refuse = Callable[..., Refusal]

TRAIN_KEYS = (
    "accumulate, batch_size, checkpoint_every, clip_norm, compile, deterministic, device, duration, early_stop, "
    "ema_decay, eval_every, max_seconds, precision, refresh_batches, threads, watch_every"
)
TOP_KEYS = (
    "clip, detectors, mode, monitor, name, notify, optimizer, overlays, param_groups, preview, pruner, quiet, remedies, "
    "resume, sampler, scaling, schedule, schedule_of, search, seed, snapshots, source, sweep, tags, task, tracking, "
    "train, warmup"
)
LR_FIX = "Set optimizer.lr=1e-3, or leave it out for the default of the optimizer."
DURATION_FIX = "Set train.duration=500 (steps), 20ep (epochs) or 64000ex (examples)."
URI = "must be sqlite:///<file>, http://<host>:<port>, postgresql://<user>@<host>/<database> or null"
SCHEDULES = ", ".join(sorted(path.stem for path in (ROOT / "conf/schedule").glob("*.yaml")))
DETECTORS = ", ".join(sorted(path.stem for path in (ROOT / "conf/detector").glob("*.yaml")))
DURATION = "500 (steps), 10%, 2ep or 64000ex"

MISTAKES: list[tuple[str, str]] = [
    # unknown keys, with and without +
    ("train.duraton=5", f"train.duraton: unknown key, did you mean train.duration? Known keys here: {TRAIN_KEYS}."),
    ("+train.duraton=5", f"train.duraton: unknown key, did you mean train.duration? Known keys here: {TRAIN_KEYS}."),
    ("optimzer=sgd", f"optimzer: unknown key, did you mean optimizer? Known keys here: {TOP_KEYS}."),
    ("+a.b=3", f"a: unknown key. Known keys here: {TOP_KEYS}."),
    (
        "+train.early_stop.patients=3",
        "train.early_stop.patients: unknown key, did you mean train.early_stop.patience? "
        "Known keys here: metric, min_delta, patience.",
    ),
    # unknown options
    ("schedule=cosin", f"schedule: must be one of {SCHEDULES}, got 'cosin'. Did you mean schedule=cosine?"),
    ("detector=[divergense]", f"detector: must be one of {DETECTORS}, got 'divergense'. Did you mean detector=divergence?"),
    ("schedule=null", f"schedule: must be one of {SCHEDULES}, got null. Set schedule=cosine."),
    ("schedule=5", f"schedule: must be one of {SCHEDULES}, got 5. Set schedule=cosine."),
    ("schedule=", f"schedule: must be one of {SCHEDULES}, got ''. Set schedule=cosine."),
    ("schedule=plateau", f"schedule: must be one of {SCHEDULES}, got 'plateau'. Set schedule=constant detector=[default,plateau] remedy=[reduce_lr,stop]."),
    ("schedule=sgdr", f"schedule: must be one of {SCHEDULES}, got 'sgdr'. Set schedule=cosine_restarts."),
    ("warmup.duration=0.1", "warmup.duration: must be a whole number of steps, got 0.1. Set warmup.duration=10%."),
    ("schedule={}", "schedule: must say what is in it, got {}, which changes nothing. Leave schedule out."),
    ("schedule=sequential schedule@schedule.stages.first=cosin", f"schedule@schedule.stages.first: must be one of {SCHEDULES}, got 'cosin'. Did you mean schedule@schedule.stages.first=cosine?"),
    ("schedule_of=3", "schedule_of: must be one of one_cycle_momentum, weight_decay_cosine, got 3. Leave schedule_of out for its default."),
    # learning rate
    ("optimizer.lr=nan", f"optimizer.lr: must be a finite number > 0, got nan. {LR_FIX}"),
    ("optimizer.lr=inf", f"optimizer.lr: must be a finite number > 0, got inf. {LR_FIX}"),
    ("optimizer.lr=0", f"optimizer.lr: must be a finite number > 0, got 0. {LR_FIX}"),
    ("optimizer.lr=-0.1", f"optimizer.lr: must be a finite number > 0, got -0.1. {LR_FIX}"),
    ("optimizer.lr=fast", f"optimizer.lr: must be a finite number > 0, got 'fast'. {LR_FIX}"),
    ("optimizer.lr=", f"optimizer.lr: must be a finite number > 0, got ''. {LR_FIX}"),
    ("optimizer.lr=null", f"optimizer.lr: must be a finite number > 0, got null. {LR_FIX}"),
    ("optimizer.lr=[0.1]", f"optimizer.lr: must be a finite number > 0, got [0.1]. {LR_FIX}"),
    # scaling
    ("scaling=cubic", "scaling: must be one of linear, none, sqrt, got 'cubic'. Set scaling=none."),
    (
        "scaling=linear",
        "scaling.reference_batch_size: must be given for the linear rule, got null. "
        "Set it to the batch size that optimizer.lr was found with.",
    ),
    (
        "scaling.reference_batch_size=64",
        "scaling.reference_batch_size: must be null without a rule, got 64. Set scaling=linear or scaling=sqrt.",
    ),
    ("scaling.betas=true", "scaling.betas: must be false without a rule, got true. Set scaling=sqrt scaling.betas=true."),
    # durations
    ("train.duration=0", f"train.duration: must be a duration > 0 such as {DURATION}, got 0. {DURATION_FIX}"),
    ("train.duration=-5", f"train.duration: must be a duration > 0 such as {DURATION}, got -5. {DURATION_FIX}"),
    ("train.duration=10x", f"train.duration: must be a duration > 0 such as {DURATION}, got '10x'. {DURATION_FIX}"),
    ("train.duration=5%", f"train.duration: must not be a share of itself; give it in steps, epochs or examples, got '5%'. {DURATION_FIX}"),
    ("train.eval_every=0", f"train.eval_every: must be a duration > 0 such as {DURATION}, got 0. Leave train.eval_every out for its default."),
    (
        "warmup.duration=500",
        "warmup.duration: must not be longer than the run of 440 steps, got 500 (500 steps). "
        "Set warmup.duration=5% or a longer train.duration.",
    ),
    (
        "warmup.duration=21ep",
        "warmup.duration: must not be longer than the run of 440 steps, got 21ep (462 steps). "
        "Set warmup.duration=5% or a longer train.duration.",
    ),
    # inside _target_ nodes
    (
        "+optimizer.lrr=1",
        "optimizer.lrr: unknown key, did you mean optimizer.lr? Known keys here: dampening, devices, differentiable, foreach, "
        "fused, lr, maximize, momentum, nesterov, typical, weight_decay.",
    ),
    ("optimizer.momentum=abc", "optimizer.momentum: must be a finite number, got 'abc'. Set optimizer.momentum=0."),
    ("optimizer.momentum=nan", "optimizer.momentum: must be a finite number, got nan. Leave optimizer.momentum out for its default."),
    ("optimizer.momentum=-1", "optimizer.momentum: must be a number >= 0, got -1. Set optimizer.momentum=0."),
    (
        "optimizer._target_=torch.optim.SDG",
        "optimizer._target_: must name something that exists, got 'torch.optim.SDG'. Set optimizer._target_=torch.optim.SGD.",
    ),
    (
        "optimizer._target_=no.such.thing",
        "optimizer._target_: must be the dotted path of a class or function that can be imported, got 'no.such.thing'. "
        "Give the dotted path of a class or function.",
    ),
    (
        "optimizer._target_=torch.optim.LBFGS",
        "optimizer._target_: must step without a closure, got 'torch.optim.LBFGS'. Choose another optimizer.",
    ),
    ("schedule.floor=1.5", "schedule.floor: must be a finite number >= 0 and <= 1, got 1.5. Set schedule.floor=0.0."),
    ("schedule.total_steps=4", "schedule.total_steps: must not be set, the runner fills it in, got 4. Remove it."),
    ("task.model=resnet", "task.model: must be one of mlp, cnn, got 'resnet'. Set task.model=mlp."),
    ("task.hidden=[0]", "task.hidden: must be a list, each item an integer >= 1, got [0]. Set task.hidden=[128,128]."),
    ("task=tabular task.drop=a", "task.drop: must be a list, each item text or an integer, got 'a'. Set task.drop=[a]."),
    ("task.hidden=64", "task.hidden: must be a list, each item an integer >= 1, got 64. Set task.hidden=[64]."),
    ("task.hidden=0", "task.hidden: must be a list, each item an integer >= 1, got 0. Set task.hidden=[128,128]."),
    ("task=char_lm task.qk_norm=yess", "task.qk_norm: must be true or false, got 'yess'. Set task.qk_norm=false."),
    # batches, precision, device
    ("train.accumulate=0", "train.accumulate: must be an integer >= 1, got 0. Leave train.accumulate out for its default."),
    (
        "train.accumulate=65",
        "train.accumulate: must be at most train.batch_size=64, got 65. Set train.accumulate=64 or less.",
    ),
    (
        "train.batch_size=1401",
        "train.batch_size: must be at most the 1400 training examples of the task, got 1401. Set train.batch_size=1400 or less.",
    ),
    ("train.device=cpu train.precision=fp16", "train.precision: must be fp32 or bf16 on a CPU, got 'fp16'. Set train.precision=bf16."),
    ("train.ema_decay=1", "train.ema_decay: must be a finite number > 0 and < 1 or null, got 1. Leave train.ema_decay out for its default."),
    ("train.precision=fp8", "train.precision: must be one of fp32, bf16, fp16, got 'fp8'. Leave train.precision out for its default."),
    ("train.device=gpu", "train.device: must be auto, cpu, mps, cuda or cuda:<index>, got 'gpu'. Leave train.device out for its default."),
    (
        "train.early_stop.metric=acuracy",
        "train.early_stop.metric: must be a metric of the task (loss, accuracy), got 'acuracy'. Set train.early_stop.metric=accuracy.",
    ),
    # detectors and remedies
    (
        "detector=[plateau] detectors.plateau.metric=val/acuracy",
        "detectors.plateau.metric: must be a metric of the task (train/loss, val/loss, val/accuracy), got 'val/acuracy'. "
        "Set detectors.plateau.metric=val/accuracy.",
    ),
    (
        "detector=[plateau] detectors.plateau.metric=loss",
        "detectors.plateau.metric: must be <split>/<metric> such as val/loss or train/loss, got 'loss'. "
        "Set detectors.plateau.metric=val/loss.",
    ),
    (
        "detector=[streak] detectors.streak.metric=val/accuracy",
        "detectors.streak.mode: must be max for val/accuracy, of which more is better, got 'min'. Set detectors.streak.mode=max.",
    ),
    (
        "task=quadratic detector=[plateau]",
        "detectors.plateau.metric: must be a metric of the task (train/loss), got 'val/loss'. Set detectors.plateau.metric=train/loss.",
    ),
    (
        "task=quadratic remedy=[restore_best]",
        "remedies.restore_best: must be left out for a task without a val split, which has no best weights, got "
        "'runner.remedies.restore_best.RestoreBest'. Set remedy=[reduce_lr,stop].",
    ),
    (
        "remedy=[reduce_lr] remedies.reduce_lr.factor=1",
        "remedies.reduce_lr.factor: must be a finite number > 0 and < 1, got 1. Set remedies.reduce_lr.factor=0.1.",
    ),
    (
        "remedy=[reduce_lr] remedies.reduce_lr.detectors=plateau",
        "remedies.reduce_lr.detectors: must be a list, each item text, got 'plateau'. Set remedies.reduce_lr.detectors=[plateau].",
    ),
    # the rest of the page
    ("seed=1.5", "seed: must be an integer >= 0 and < 4294967296, got 1.5. Set seed=0."),
    ("train={}", "train: must say what is in it, got {}, which changes nothing. Leave train out."),
    ("overlay=[noise] overlays={}", "overlays: must say what is in it, got {}, which leaves noise. Leave overlays out, or set ~overlays.noise to take that out."),
    ("+overlays.x={}", "overlays.x._target_: must be there, got nothing. Set overlays.x._target_=my_module.X."),
    ("preview.schedules=cosine", "preview.schedules: must be a list, each item text that is not empty, got 'cosine'. Set preview.schedules=[cosine]."),
    ("preview.schedules=[null]", "preview.schedules: must be a list, each item text that is not empty, got [null]. Leave preview.schedules out for its default."),
    ("train=5", "train: must be a section with keys of its own, got 5. Leave train out for its default."),
    ("~train.seed", "config: "),
    ("~schedule", "schedule: must be there, got nothing. Do not delete it."),
    ("resume.from=no/such/run", "resume.from: must be a run directory, got 'no/such/run'. Give a path under runs/."),
    ("resume.from=/etc/passwd", "resume.from: must be a run directory, got '/etc/passwd'. Give a path under runs/."),
    ("resume.from=", "resume.from: must be a run directory, got ''. Give a path under runs/."),
    ("resume=foo", "resume: must be a section with keys of its own, got 'foo'. Leave resume out for its default."),
    ("mode=report", "source: must be the directory of a sweep with sweep.json, got null. Set source=runs/sweeps/<sweep>."),
    ("mode=report source=x", "source: must be the directory of a sweep with sweep.json, got 'x'. Set source=runs/sweeps/<sweep>."),
    ("source=x", "source: must be null in a mode that reads none, got 'x'. Set mode=diagnose, mode=report, mode=upload, mode=eval or resume.from."),
    ("max_seconds=3", "max_seconds: unknown key, did you mean train.max_seconds?"),
    ("optimizer.lr=true", f"optimizer.lr: must be a finite number > 0, got true. {LR_FIX}"),
    ("optimizer.momentum='0.9'", "optimizer.momentum: must be a finite number, got '0.9'. Set optimizer.momentum=0."),
    ("train.batch_size=true", "train.batch_size: must be an integer >= 1, got true. Leave train.batch_size out for its default."),
    ("train.duration=1e30", f"train.duration: must be a duration of at most 1e+12, got 1e+30. {DURATION_FIX}"),
    ("optimizer._target_=os.getcwd", "optimizer._target_: must be a class of optimizers, like those of torch.optim, or a function that declares to return one, got 'os.getcwd'. Choose another optimizer."),
    ("mode=eval", "source: must be a run directory with config.yaml and records.jsonl, got null. Set source=runs/<name>/<run>."),
    ("mode=eval source=no/such/run", "source: must be a run directory with config.yaml and records.jsonl, got 'no/such/run'. Set source=runs/<name>/<run>."),
    ("mode=upload", "source: must be a run directory with records.jsonl, got null. Set source=runs/<name>/<run>."),
    ("notify.command=", "notify.command: must be a shell command or null, got ''. Leave notify.command out for its default."),
    ("quiet=maybe", "quiet: must be true or false, got 'maybe'. Leave quiet out for its default."),
    ("tracking.uri=", f"tracking.uri: {URI}, got ''. Leave tracking.uri out for its default."),
    ("tracking.uri=mlruns", f"tracking.uri: {URI}, got 'mlruns'. Leave tracking.uri out for its default."),
    ("tracking.uri=http://", f"tracking.uri: {URI}, got 'http://'. Leave tracking.uri out for its default."),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistake_is_refused_with_key_rule_value_and_fix(refuse_row: Refuse, override: str, message: str) -> None:
    refusal = refuse_row(*override.split(" "))
    assert refusal.code == 2
    first, *problems = refusal.err.splitlines()
    assert first == "1 problem in the configuration:"
    assert len(problems) == 1
    assert problems[0].startswith(f"  {message}") if message.endswith(" ") else problems == [f"  {message}"]
    assert refusal.left_behind == []


@pytest.mark.parametrize("override", [mistake for mistake, _ in MISTAKES[::15]])
def test_program_says_of_a_mistake_what_the_table_says(refuse: Refuse, refuse_row: Refuse, override: str) -> None:
    assert refuse(*override.split(" ")) == refuse_row(*override.split(" "))


def test_all_problems_come_at_once_sorted_by_key(refuse: Refuse) -> None:
    refusal = refuse(
        "optimizer.lr=nan",
        "train.duraton=5",
        "schedule=cosin",
        "+train.accumulate=0",
        "seed=-1",
        "detectors.divergence.factor=0",
    )
    assert refusal.code == 2
    lines = refusal.err.splitlines()
    assert lines[0] == "6 problems in the configuration:"
    keys = [line.strip().split(":")[0] for line in lines[1:]]
    assert keys == [
        "detectors.divergence.factor",
        "optimizer.lr",
        "schedule",
        "seed",
        "train.accumulate",
        "train.duraton",
    ]
    assert refusal.left_behind == []


def test_wrong_values_of_one_section_do_not_hide_the_other_rules(refuse: Refuse) -> None:
    refusal = refuse(
        "optimizer.lr=-1", "train.accumulate=0", "train.batch_size=5000", "seed=-1", "resume.from=nothing",
        "train.early_stop.patience=0", "train.early_stop.metric=acc", "train.clip_norm=0", "task.dropout=2",
    )  # fmt: skip
    keys = [line.strip().split(":")[0] for line in refusal.err.splitlines()[1:]]
    assert keys == [
        "optimizer.lr", "resume.from", "seed", "task.dropout", "train.accumulate", "train.batch_size",
        "train.clip_norm", "train.early_stop.metric", "train.early_stop.patience",
    ]  # fmt: skip


def test_wrong_key_of_the_runner_hides_no_argument_of_the_same_node(refuse: Refuse) -> None:
    refusal = refuse("task.hiden=[3]", "task.regime=finetune", "optimizer.lr=nan", "optimizer.momntum=1")
    keys = [line.split(":")[0].strip() for line in refusal.err.splitlines()[1:]]
    assert keys == ["optimizer.lr", "optimizer.momntum", "task.hiden", "task.regime"]


def test_problems_of_data_and_machine_come_together_with_the_others(refuse: Refuse) -> None:
    refusal = refuse(
        "optimizer.lr=nan", "warmup.duration=9999", "train.batch_size=1401", "train.device=cuda", "schedule.floor=7"
    )
    keys = [line.strip().split(":")[0] for line in refusal.err.splitlines()[1:]]
    assert keys == ["optimizer.lr", "schedule.floor", "train.batch_size", "train.device", "warmup.duration"]


@pytest.mark.parametrize("override", ["optimizer.lr=[1", "train.duration=a:b:c{", "=5"])
def test_unreadable_override_is_named(refuse: Refuse, override: str) -> None:
    refusal = refuse(override)
    assert refusal.code == 2
    assert "must be of the form key=value" in refusal.err


def test_values_of_a_sweep_without_m_are_refused_by_name(refuse: Refuse) -> None:
    refusal = refuse("seed=0,1", "optimizer.fused=false")
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [
        "  seed: must be one value in a single run, got 0,1. Add -m to run a job for each, or brackets for a list."
    ]


def test_patience_without_a_val_split_is_refused(refuse: Refuse) -> None:
    refusal = refuse("task=quadratic", "train.early_stop.patience=3")
    assert refusal.code == 2
    assert "train.early_stop.patience: must be null for a task without a val split, got 3." in refusal.err


def test_task_without_data_has_no_epochs(refuse: Refuse) -> None:
    refusal = refuse("task=quadratic", "schedule=step", "schedule.every=2ep")
    assert refusal.code == 2
    assert "schedule.every: must be in steps, this task has no epochs or examples to count" in refusal.err


def test_start_of_another_length_than_the_curvatures_is_refused(refuse: Refuse) -> None:
    refusal = refuse("task=quadratic", "task.start=[1]")
    assert (
        refusal.err.splitlines()[1] == "  task.start: must have one number per curvature (3), got 1. Change task.start."
    )


def test_resume_from_a_directory_without_checkpoint_is_refused(refuse: Refuse, tmp_path: object) -> None:
    refusal = refuse(f"resume.from={tmp_path}")
    assert refusal.code == 2
    assert "without config.yaml, result.json, checkpoints/last.pt" in refusal.err


@pytest.mark.parametrize("override", ["optimizer=rmsprop", "+optimizer.fused=false", "+optimizer.foreach=true"])
def test_watching_less_often_needs_a_fused_optimizer(refuse: Refuse, override: str) -> None:
    refusal = refuse(override, "train.watch_every=10")
    assert refusal.code == 2
    assert "train.watch_every: must be 1 with an optimizer that is not fused, got 10" in refusal.err
