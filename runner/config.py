"""The configuration as a tree of small models, one a section of config.yaml.

Every model forbids unknown keys; nodes with a `_target_` keep theirs, and `check` binds them to the signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from runner.config_search import SearchSection, SweepSection
from runner.config_source import Preview, Source, source_section
from runner.config_types import (
    Command,
    Count,
    Device,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Range,
    Section,
    Seed,
    Uri,
)
from runner.durations import PositiveDuration
from runner.nodes import Node
from runner.scaling import Hyperparameters, Rule, scale


class Typical(Section):
    """Base learning rates in use, for the warning about an unusual one."""

    from_scratch: Range
    fine_tune: Range
    source: str


class ModeNode(Node):
    """A mode.

    Attributes:
        trains: whether task, plan and device are checked for it.
        makes_run: whether it makes a run directory, of which a multirun makes a summary.
        reads: whether `source` must be a run directory, or the directory of a sweep.
        reads_curve: whether `source` must name a curve, recorded by whatever.
        rebuilds: whether the page is that of `source`, with the command line on top; its task and the device are
            checked.
        searches: whether it searches, so that sampler and pruner are checked.
        makes_sweep: whether it makes a sweep, which `resume.sweep` goes on with.
        runs_grid: whether that is the grid of `sweep`.
        schedules_only: whether it makes nothing but schedules, so that only their parts are checked where the page
            tells all that they need.
    """

    trains: bool = False
    makes_run: bool = False
    reads: bool | Literal["sweep"] = False
    reads_curve: bool = False
    rebuilds: bool = False
    makes_sweep: bool = False
    searches: bool = False
    runs_grid: bool = False
    schedules_only: bool = False


class OptimizerNode(Node):
    """An optimizer: `lr`, `typical` and `devices` are ours, the rest are arguments of the class.

    Attributes:
        lr: base learning rate.
        typical: those in use.
        devices: types of devices that it runs on; None is all of them.
    """

    lr: Positive
    typical: Typical | None = None
    devices: list[Literal["cpu", "cuda", "mps"]] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that are arguments of the class, `lr` included."""
        return {**super().arguments, "lr": self.lr}

    @property
    def name(self) -> str:
        """Its class, without the package."""
        return self.target.rpartition(".")[2]

    @property
    def lr_key(self) -> str:
        """Key of the learning rate that is searched: `d_coef` where the optimizer estimates its own."""
        return "optimizer.lr" if self.d_coef is None else "optimizer.d_coef"

    @property
    def d_coef(self) -> float | None:
        """The factor on the learning rate that it estimates by itself, None where the page has none."""
        return self.arguments.get("d_coef")


class ScheduleNode(Node):
    """A schedule of a hyperparameter.

    Attributes:
        horizon: length that it is made for, where that is not the length of the run; at least as long.
        end: whether its end value belongs to the last update (inclusive) or to the step after it.
    """

    horizon: PositiveDuration | None = None
    end: Literal["exclusive", "inclusive"] = "exclusive"


class LRScheduleNode(ScheduleNode):
    """The schedule of the learning rate.

    Attributes:
        min_lr: floor as a learning rate of the groups without a multiplier of their own; the others keep their ratio.
    """

    min_lr: NonNegative | None = None


class TaskNode(Node):
    """A task.

    Attributes:
        init_from: run directory or file of weights to begin with; None begins afresh.
        regime: which typical learning rates apply.
        examples: training examples, where they are known without the data; None asks the task.
    """

    init_from: str | None = None
    regime: Literal["from_scratch", "fine_tune"] = "from_scratch"
    examples: Count | None = None


class EarlyStop(Section):
    """Which metric picks the best checkpoint, and when to give up waiting for a better one."""

    metric: str
    patience: Count | None
    min_delta: NonNegative


class Train(Section):
    """How long, how much at once, how exact, how often to look."""

    duration: PositiveDuration
    batch_size: Count
    accumulate: Count
    clip_norm: Positive | None
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    device: Device
    deterministic: bool
    threads: Count | None
    eval_every: PositiveDuration | None
    checkpoint_every: PositiveDuration | None
    early_stop: EarlyStop
    max_seconds: Positive | None
    watch_every: Count
    ema_decay: Fraction | None = None
    refresh_batches: Count = 50


class SharpnessMeter(Section):
    """How often the sharpness is measured, and how exactly; null never."""

    every: PositiveDuration | None = None
    examples: Count = 128
    iterations: Count = 3


class Monitor(Section):
    """What is measured beside loss, learning rate and gradient norm, and how often."""

    signals_every: Count = 20
    sharpness: SharpnessMeter = SharpnessMeter()


class Snapshots(Section):
    """The weights that a remedy may go back to; none are kept where no remedy does."""

    every: PositiveDuration = "5%"
    keep: Count = 3
    on_disk: bool = False


class Scaling(Section):
    """How the learning rate, and Adam's betas and eps where asked for, follow the batch size."""

    rule: Rule
    reference_batch_size: Count | None
    betas: bool

    def factor(self, batch_size: int) -> float:
        """Return how many times the reference batch size a batch is; 1 without one."""
        return batch_size / (self.reference_batch_size or batch_size)


class Resume(Section):
    """What to go on from."""

    source: str | None = Field(alias="from")
    sweep: str | None
    checkpoint: Literal["last", "best"]


class Tracking(Section):
    """Where the records are sent; null sends them nowhere."""

    uri: Uri | None
    wait_seconds: NonNegative


class Notify(Section):
    """Which shell command hears of alarms and of the end."""

    command: Command | None


class Config(Section):
    """The whole configuration, checked."""

    mode: ModeNode
    task: TaskNode
    optimizer: OptimizerNode
    scaling: Scaling
    param_groups: Node
    schedule: LRScheduleNode
    warmup: Node
    schedule_of: dict[str, ScheduleNode]
    overlays: dict[str, Node]
    detectors: dict[str, Node]
    remedies: dict[str, Node]
    tracking: Tracking
    notify: Notify
    train: Train
    clip: Node = Node.model_validate({"_target_": "runner.train.clipping.Fixed"})
    monitor: Monitor = Monitor()
    snapshots: Snapshots = Snapshots()
    resume: Resume
    seed: Seed
    name: Name | None
    tags: dict[str, str | int | float | bool]
    source: Annotated[Source, BeforeValidator(source_section)]
    quiet: bool
    preview: Preview
    sweep: SweepSection = SweepSection()
    search: SearchSection = SearchSection()
    sampler: Node = Node.model_validate({"_target_": "optuna.samplers.TPESampler"})
    pruner: Node = Node.model_validate({"_target_": "optuna.pruners.NopPruner"})

    @property
    def batch_factor(self) -> float:
        """How many times the reference batch size a batch is; 1 without a rule."""
        return self.scaling.factor(self.train.batch_size)

    @property
    def scaled_optimizer(self) -> OptimizerNode:
        """The optimizer as it is made: `optimizer` is what was found with the reference batch size."""
        scaling, arguments = self.scaling, self.optimizer.arguments
        moments = {name: arguments[name] for name in ("betas", "eps") if scaling.betas and name in arguments}
        scaled = scale(Hyperparameters(self.optimizer.lr, **moments), rule=scaling.rule, factor=self.batch_factor)
        return self.optimizer.model_copy(update={name: getattr(scaled, name) for name in ("lr", *moments)})


@dataclass(frozen=True)
class Invocation:
    """How the program was called.

    Attributes:
        overrides: what was given on the command line.
        choices: config group -> option, such as {"optimizer": "sgd"}.
        sweep: id shared by the runs of a multirun, None for a single run.
        page: `--config-dir` and `--config-name` as given, if they were.
        tree: the configuration as plain resolved YAML, saved beside the records.
        directory: where it was launched.
    """

    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    tree: Mapping[str, Any]
    directory: Path
    sweep: str | None = None
    page: tuple[str, ...] = ()
