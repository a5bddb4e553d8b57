"""A user's own model and data: any form of batch, any number of workers, and every mistake in words."""

import itertools
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

from runner.build_task import build_task
from runner.config import TaskNode
from runner.errors import ConfigError
from runner.tasks.protocol import LossSum
from runner.tasks.supervised import Supervised
from runner.train.plan import TrainPlan
from runner.train.probe import probe
from tests import own_parts
from tests.conftest import ENVIRONMENT, ROOT, Done, Refusal, call_main, wait_for
from tests.processes import Forked

NET = "task.model._target_=my_parts.Net"
POINTS = "task.train._target_=my_parts.Points"
TENSORS = "task.train._target_=my_parts.tensors"
OWN = [NET, POINTS, "train.batch_size=16"]
ACCURACY = [
    "task.metrics.accuracy._target_=torchmetrics.classification.MulticlassAccuracy",
    "task.metrics.accuracy.num_classes=3",
]
Launch = Callable[..., Done]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Launch:
    """Call the program in a directory that holds a user's file: its `main` here, or, to spawn, a process of its own."""
    shutil.copy(ROOT / "tests/own_parts.py", tmp_path / "my_parts.py")

    def call(*overrides: str, task: str | None = "task=supervised", spawn: bool = False) -> Done:
        options = [word for word in overrides if word.startswith("-")]
        overrides = tuple(word for word in overrides if word not in options)
        words = [*options, "tracking=off", *([task] if task is not None else []), *overrides]
        if spawn:
            return Done(*Forked(*words, directory=tmp_path, environment=ENVIRONMENT).communicate(), tmp_path)
        code = call_main(words, tmp_path, monkeypatch)
        return Done(code, *capfd.readouterr(), tmp_path)

    return call


@pytest.fixture
def refused(refuse_row: Callable[..., Refusal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Check a command line in this process; it must be refused, with nothing written. Return what is said."""
    folder = tmp_path / "code"
    folder.mkdir()
    shutil.copy(ROOT / "tests/own_parts.py", folder / "my_parts.py")
    monkeypatch.syspath_prepend(folder)

    def call(*overrides: str) -> list[str]:
        done = refuse_row("task=supervised", "tracking=off", "train.batch_size=16", "train.duration=2", *overrides)
        assert done.code == 2, done.err
        assert [path.name for path in done.left_behind] == ["code"]
        return [line.strip() for line in done.err.splitlines()[1:]]

    yield call
    for name in ("my_parts", "exits"):
        sys.modules.pop(name, None)


def steps(run: Path) -> list[dict[str, Any]]:
    """Records without their wall-clock times."""
    lines = (run / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time_ms"} for line in lines]


def task(**arguments: Any) -> Supervised:
    defaults = {"model": own_parts.Net, "train": own_parts.Points(), "loss": nn.CrossEntropyLoss()}
    return Supervised(**{"batch_size": 16, "seed": 0, **defaults, **arguments})


def read(made: Supervised, step: int, split: str = "train", part: tuple[int, int] = (0, 1)) -> Any:
    """Return a batch that is not empty."""
    batch = made.batch(step, split, part)
    assert batch is not None
    return batch


def summed(made: Supervised, model: nn.Module, batch: Any) -> LossSum:
    return made.loss(model, batch, made.weight(batch))


def equal(one: Any, other: Any) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_a_model_and_a_data_set_from_a_file_of_the_directory_of_launch_are_trained(launch: Launch) -> None:
    done = launch(*OWN, *ACCURACY, "train.duration=10ep", "train.early_stop.metric=accuracy", spawn=True)
    assert done.code == 0, done.err
    result = json.loads((done.run / "result.json").read_text())
    assert result["dataset"]["examples"] == {"train": 135, "val": 15}
    assert result["best"]["accuracy"] > 0.7
    assert result["best"]["loss"] < 0.8


def test_records_do_not_depend_on_the_number_of_workers_and_a_resumed_run_equals_one_in_one_go(launch: Launch) -> None:
    """The items draw from torch, random and numpy, and the model drops: all of it is repeated bit for bit."""
    words = [*OWN, "task.train.noise=0.3", "task.model.dropout=0.2", "train.accumulate=3", "schedule=constant"]
    whole = launch(*words, "train.duration=24", "train.eval_every=8", "warmup=none")
    assert whole.code == 0, whole.err
    half = launch(*words, "train.duration=12", "train.eval_every=8", "warmup=none", "task.workers=2")
    assert half.code == 0, half.err
    rest = launch(f"resume.from={half.run}", "train.duration=24", task=None)
    assert rest.code == 0, rest.err
    wanted = [record for record in steps(whole.run) if record["kind"] == "step"]
    found = [record for run in (half.run, rest.run) for record in steps(run) if record["kind"] == "step"]
    assert found == wanted
    assert rest.err == ""
    evaluations = [record["metrics"] for run in (whole.run, rest.run) for record in steps(run) if record["step"] == 24]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize("collate", [None, own_parts.join_with_noise])
def test_a_batch_is_a_function_of_step_split_and_part_with_any_number_of_workers(collate: Any) -> None:
    noisy = own_parts.Points(n=70, noise=1.0)
    parts = [(index, 3) for index in range(3)]
    asked = [(step, "train", part) for step in range(6) for part in parts]  # past an epoch of 4 steps
    asked += [(step, "val", (0, 1)) for step in (0, 1, 0, 1)]
    asked += [(9, "train", (0, 1)), (2, "train", (1, 3)), (10, "train", (0, 1)), (11, "train", (0, 1))]
    found = []
    for workers in range(min(2, len(os.sched_getaffinity(0))) + 1):
        made = task(train=noisy, workers=workers, collate=collate)
        found.append([made.batch(*request) for request in asked])
    assert all(equal(found[0], other) for other in found[1:])
    fresh = task(train=noisy, collate=collate)
    assert all(
        equal(batch, fresh.batch(*request)) for batch, request in reversed(list(zip(found[0], asked, strict=True)))
    )
    assert not equal(fresh.batch(0, "train"), task(train=noisy, collate=collate, seed=1).batch(0, "train"))


def test_reading_leaves_the_global_generators_alone() -> None:
    made = task(train=own_parts.Points(noise=1.0), collate=own_parts.join_with_noise)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    made.batch(3, "train")
    assert torch.equal(torch.rand(3), wanted)


def test_tensors_in_memory_give_the_batches_that_reading_them_item_by_item_gives() -> None:
    data = own_parts.tensors(n=40)
    rows, items = task(train=data), task(train=data, collate=torch.utils.data.default_collate)
    for step, split in itertools.product(range(4), ("train", "val")):
        assert equal(rows.batch(step, split), items.batch(step, split))
    assert rows.prior_entropy == pytest.approx(1.0986, abs=1e-2)
    assert items.prior_entropy is None


def test_the_split_for_validation_is_the_same_for_every_seed_and_leaves_nothing_out() -> None:
    numbered = TensorDataset(torch.arange(50.0)[:, None], torch.arange(50))
    splits = []
    for seed in (0, 1):
        made = task(train=numbered, seed=seed, val_fraction=0.2)
        val, train = read(made, 0, "val")[1], torch.cat([read(made, step)[1] for step in range(3)])
        assert sorted([*val.tolist(), *train.tolist()]) == list(range(50))
        splits.append(val)
    assert torch.equal(*splits)
    assert task(train=numbered, val_fraction=0).examples == {"train": 50}
    given = task(train=numbered, val=own_parts.Points(20), test=own_parts.Points(30))
    assert given.examples == {"train": 50, "val": 20, "test": 30}


WEIGHTS = torch.tensor([1.0, 5.0, 0.2])
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross entropy": nn.CrossEntropyLoss(),
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
    "class weights": nn.CrossEntropyLoss(weight=WEIGHTS),
    "class weights and smoothing": nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2),
    "ignored class": nn.CrossEntropyLoss(ignore_index=1),
    "function": partial(nn.functional.cross_entropy, weight=WEIGHTS, ignore_index=2),
    "plain function": nn.functional.cross_entropy,
    "per example": nn.CrossEntropyLoss(reduction="none"),
    "negative log likelihood": nn.NLLLoss(weight=WEIGHTS),
    "margin": nn.MultiMarginLoss(),
    "own function": lambda outputs, targets: (outputs.logsumexp(1) - outputs[:, 0] * (targets + 1)).mean(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_sum_to_what_the_loss_gives_for_the_whole_batch(loss: Callable[..., Tensor], parts: int) -> None:
    made, model = task(loss=loss), own_parts.Net()
    x, y = read(made, 1)
    pieces = [batch for i in range(parts) if (batch := made.batch(1, "train", (i, parts))) is not None]
    sums, weight = [summed(made, model, batch) for batch in pieces], sum(map(made.weight, pieces))
    total = sum(part.total.item() for part in sums)
    assert total / weight == pytest.approx(loss(model(x), y).mean().item(), rel=1e-5)
    assert sum(part.examples for part in sums) == 16


def test_a_sum_counts_by_example_and_targets_may_be_probabilities() -> None:
    total, mean, model = task(loss=nn.CrossEntropyLoss(reduction="sum")), task(), own_parts.Net()
    batch = read(mean, 0)
    one, other = summed(total, model, batch), summed(mean, model, batch)
    assert one.total.item() == pytest.approx(other.total.item(), rel=1e-6)
    assert total.weight(batch) == mean.weight(batch) == 16
    soft = nn.functional.one_hot(batch[1], 3).float()
    assert mean.weight([batch[0], soft]) == 16
    assert summed(mean, model, [batch[0], soft]).total.item() == pytest.approx(other.total.item(), rel=1e-6)


def test_class_weights_count_targets_of_every_integer_type() -> None:
    made = task(loss=nn.CrossEntropyLoss(weight=WEIGHTS))
    batch = read(made, 0)
    assert made.weight([batch[0], batch[1].to(torch.uint8)]) == made.weight(batch) == WEIGHTS[batch[1]].sum().item()


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.center: Tensor = 0.5 * self.center + outputs.detach().mean(0)
        return nn.functional.cross_entropy(outputs - self.center, targets)


def test_what_a_loss_has_gathered_in_one_run_is_not_there_in_the_next() -> None:
    made = task(loss=Centred())
    batch = read(made, 0)
    totals = []
    for _ in range(2):
        torch.manual_seed(0)
        model = made.model()
        totals.append([summed(made, model, batch).total.item() for _ in range(3)])
    assert totals[0] == totals[1]
    assert len(set(totals[0])) == 3


def test_a_batch_without_a_single_counted_target_weighs_nothing() -> None:
    made = task(loss=nn.CrossEntropyLoss(ignore_index=1))
    batch = [torch.randn(2, 8), torch.tensor([1, 1])]
    part = summed(made, own_parts.Net(), batch)
    assert (part.total.item(), made.weight(batch), part.examples) == (0.0, 0, 2)


@pytest.mark.parametrize("loss", [None, "given"])
def test_a_mapping_goes_to_the_model_by_keyword_and_parts_sum_to_the_whole(loss: str | None) -> None:
    """Sentences have one to six labels, so means of means would be wrong."""
    given = None if loss is None else lambda logits, labels: nn.functional.cross_entropy(logits.mT, labels)
    made = task(model=own_parts.Tagger, train=own_parts.Sentences(), loss=given)
    model = own_parts.Tagger()
    whole = summed(made, model, read(made, 0))
    assert isinstance(whole.outputs, dict)
    if loss is None:
        pieces = [read(made, 0, part=(i, 5)) for i in range(5)]
        total = sum(summed(made, model, batch).total.item() for batch in pieces)
        wanted = model(**read(made, 0))["loss"].item()
        assert total / sum(map(made.weight, pieces)) == pytest.approx(wanted, rel=1e-5)


def test_accumulation_equals_one_batch_through_the_program(launch: Launch) -> None:
    words = [NET, TENSORS, "train.batch_size=16", "train.duration=10", "schedule=constant"]
    words += ["task.loss.weight._target_=torch.tensor", "task.loss.weight.data=[1.0,5.0,0.2]"]
    one, five = launch(*words), launch(*words, "train.accumulate=5")
    assert one.code == five.code == 0, one.err + five.err
    losses = [[record["loss"] for record in steps(done.run) if record["kind"] == "step"] for done in (one, five)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_metrics_take_the_logits_of_a_mapping_and_want_what_torchmetrics_says() -> None:
    from torchmetrics import MeanSquaredError
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

    metrics = {name: partial(make, 4) for name, make in (("accuracy", MulticlassAccuracy), ("f1", MulticlassF1Score))}
    made = task(model=own_parts.Scorer, train=own_parts.Bags(), metrics=metrics)
    batch, scores = made.batch(0, "train"), made.scores()
    scores.update(summed(made, own_parts.Scorer(), batch).outputs, batch)
    assert scores.compute(0.0).keys() == {"accuracy", "f1"}
    assert task(metrics={**metrics, "mse": MeanSquaredError}).goals == {
        "loss": "min", "accuracy": "max", "f1": "max", "mse": "min",
    }  # fmt: skip


@pytest.mark.parametrize("varied", [["seed=0,1,2"], ["seed=0,1", "train.batch_size=8,16"], ["optimizer.lr=0.1,0.2"]])
def test_a_job_of_a_grid_reads_its_data_once_at_most(launch: Launch, varied: list[str]) -> None:
    done = launch("-m", NET, "task.train._target_=my_parts.Counted", "train.duration=2", *varied)
    assert done.code == 0, done.err
    jobs = json.loads((done.run / "sweep.json").read_text())["jobs"]
    reads = (done.directory / "read").read_text().count("made")
    assert reads == (1 if varied[0].startswith("optimizer") else len(jobs))


def test_only_the_task_made_last_is_kept() -> None:
    node = TaskNode.model_validate({"_target_": "runner.tasks.digits.Digits"})
    first = build_task(node, batch_size=4, seed=0)
    assert build_task(node, batch_size=4, seed=0) is first
    forgotten = weakref.ref(first)
    del first
    build_task(node, batch_size=4, seed=1)
    assert forgotten() is None


def test_the_fingerprint_is_that_of_the_data_and_not_of_the_seed() -> None:
    noisy = own_parts.Points(noise=1.0)
    assert task(train=noisy).digest == task(train=noisy, seed=5).digest
    assert task(train=noisy).digest != task(train=own_parts.Points(n=151, noise=1.0)).digest


INDEX = "Give each example an index: batches are a function of the step, so that runs resume and repeat."
SHAPES = "Reshape what the model returns, or the targets."
FIT = "Change what the model returns, the targets or the loss."
MISTAKES: list[tuple[str, str]] = [
    ("", "task.model: must be a section with a _target_, got null. Set task.model._target_=my_module.Model."),
    ("", "task.train: must be a section with a _target_, got null. Set task.train._target_=my_module.Train."),
    (f"{POINTS} task.model=my_parts.Net", "task.model: must be a section with a _target_, got 'my_parts.Net'. Set task.model._target_=my_parts.Net."),
    (f"{POINTS} task.model._target_=my_parts.Ned", "task.model._target_: must name something that exists, got 'my_parts.Ned'. Set task.model._target_=my_parts.Net."),
    (f"{POINTS} {NET} task.model.clases=4", "task.model.clases: unknown key, did you mean task.model.classes? Known keys here: classes, dropout, inputs."),
    (f"{POINTS} task.model._target_=builtins.dict", "task.model._target_: must make a torch.nn.Module, got dict. Name a class of modules."),
    # data sets
    (f"{NET} task.train._target_=my_parts.Stream", f"task.train: must be a map-style data set, got the IterableDataset Stream. {INDEX}"),
    (f"{NET} task.train._target_=my_parts.NoLength", f"task.train: must be a data set with __len__ and __getitem__, got NoLength without. {INDEX}"),
    (f"{NET} task.train._target_=my_parts.NoItems", f"task.train: must be a data set with __len__ and __getitem__, got NoItems without. {INDEX}"),
    (f"{NET} {POINTS} task.train.n=0", "task.train: must have at least one example, got an empty Points. Look at its arguments."),
    (f"{NET} {POINTS} task.val._target_=my_parts.Points task.val.n=0", "task.val: must have at least one example, got an empty Points. Look at its arguments."),
    (f"{NET} {POINTS} task.val_fraction=0.001", "task.val_fraction: must leave examples on both sides, got 0.001 of 150 examples. Set another share, task.val, or task.val_fraction=0 for no validation."),
    (f"{NET} {POINTS} task.val_fraction=1", "task.val_fraction: must be a finite number >= 0 and < 1, got 1. Set task.val_fraction=0.1."),
    (f"{NET} {POINTS} train.batch_size=136", "train.batch_size: must be at most the 135 training examples of the task, got 136. Set train.batch_size=135 or less."),
    (f"{NET} {POINTS} task.train.broken=0 task.val_fraction=0", "task.train: must give an item at every index, got OSError: truncated file at index 0. Mend the item or leave it out."),
    (f"{NET} task.train._target_=my_parts.Nothing task.val_fraction=0", "task.train: must give items that torch's default_collate can join, got None at index 0, and TypeError: default_collate: batch must contain tensors"),
    (f"{NET} {POINTS} task.collate._target_=my_parts.Net", "task.train: must give items that task.collate can join, got (float32 (8,), int) at index"),
    (f"{NET} {POINTS} task.collate._target_=my_parts.Points", "task.collate._target_: must name a function, or a class whose objects can be called, got one that makes Points. Name another."),
    # workers
    (f"{NET} {POINTS} task.workers=-1", "task.workers: must be an integer >= 0, got -1. Set task.workers=0."),
    (f"{NET} {POINTS} task.workers=9999", "task.workers: must be at most the "),
    # what does not fit together
    (f"{NET} {TENSORS} task.train.inputs=7", "task.model: must take inputs (float32 (2, 7)), but Net says: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x7 and 8x16). Change the model, or what the data set returns."),
    (f"{NET} {TENSORS} 'task.train.form=int64 column'", f"task.loss: must take outputs float32 (2, 3) and targets int64 (2, 1), but CrossEntropyLoss says: RuntimeError: 0D or 1D target tensor expected, multi-target not supported. {FIT}"),
    (f"{NET} {TENSORS} task.train.form=float64", "task.loss: must take outputs float32 (2, 3) and targets float64 (2,), but CrossEntropyLoss says: RuntimeError: expected"),
    (f"{NET} {TENSORS} task.train.classes=4", "task.loss: must get targets from 0 to 2 for outputs float32 (2, 3), got 3. Number the classes from 0, or give the model as many outputs as there are classes."),
    (f"{NET} {TENSORS} task.model.classes=1 task.train.form=float32 task.loss._target_=torch.nn.MSELoss", f"task.loss: must get outputs and targets of one shape, got float32 (2, 1) and float32 (2,). {SHAPES}"),
    (f"{NET} {TENSORS} task.loss._target_=torch.nn.Linear task.loss.in_features=3 task.loss.out_features=3", "task.loss: must take outputs float32 (2, 3) and targets int64 (2,), but Linear says: TypeError"),
    (f"{NET} {TENSORS} task.loss.weight=[1,2,3]", "task.loss.weight: must be a section with a _target_, got [1, 2, 3]. Set task.loss.weight._target_=torch.tensor task.loss.weight.data=[1,2,3]."),
    (f"{NET} task.train._target_=my_parts.unlabelled", "task.train: must give items (inputs ..., target) or mappings, got batches (float32 (2, 8)). Set task.loss=null for a model that returns its own loss."),
    (f"{NET} {TENSORS} task.loss=null", "task.model: must take inputs (float32 (2, 8), int64 (2,)), but Net says: TypeError: Net.forward() takes 2 positional arguments but 3 were given."),
    ("task.model._target_=my_parts.Scorer task.train._target_=my_parts.Bags task.loss=null", "task.model: must take inputs {input_ids: int64 (2, 6), labels: int64 (2,)}, but Scorer says: TypeError: Scorer.forward() got an unexpected keyword argument 'labels'"),
    (f"{NET} task.train._target_=my_parts.unlabelled task.loss=null", "task.loss: must be given for a model that returns no loss of its own, got null and outputs float32 (2, 3). Set task.loss._target_=torch.nn.CrossEntropyLoss."),
    ("task.model._target_=my_parts.Scorer task.train._target_=my_parts.Bags task.target=label", "task.target: must be a key of the batch (input_ids, labels), got 'label'. Set task.target to the key of the targets."),
    (f"{NET} {TENSORS} task.val._target_=my_parts.tensors task.val.inputs=7", "task.model: must take inputs (float32 (2, 7)), but Net says: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x7 and 8x16) (in the val split)."),
    (f"{TENSORS} task.model._target_=torch.nn.Identity", "task.model: must have a parameter that is trained, got none among 0. Unfreeze some, or choose another model."),
    # metrics
    (f"{NET} {POINTS} task.metrics.f1=3", "task.metrics.f1: must be a section with a _target_, got 3. Set task.metrics.f1._target_=my_module.F1."),
    (f"{NET} {POINTS} task.metrics.f1._target_=my_parts.Net", "task.metrics.f1._target_: must be a metric of torchmetrics, got Net. Name a class of torchmetrics."),
    (f"{NET} {POINTS} task.metrics.loss._target_=torchmetrics.MeanSquaredError", "task.metrics.loss: must not be called loss, which is there already. Rename it."),
    (f"{NET} {POINTS} task.metrics.mse._target_=torchmetrics.MeanSquaredError", "task.metrics.mse: must take outputs float32 (2, 3) and targets int64 (2,), but MeanSquaredError says: RuntimeError: Predictions and targets are expected to have the same shape"),
    (f"{NET} {POINTS} {' '.join(ACCURACY)} task.metrics.accuracy.average=null", "task.metrics.accuracy: must give one number, got float32 (3,) from MulticlassAccuracy. Set its average, or choose another metric."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=[f"{m[0]} {m[1][:20]}" for m in MISTAKES])
def test_mistake_is_named_with_its_fix_before_anything_is_written(
    refused: Callable[..., list[str]], overrides: str, message: str
) -> None:
    found = refused(*shlex.split(overrides))
    assert any(line.startswith(message) for line in found), found
    assert len(found) == (2 if not overrides else 1)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ("task.val_fraction=abc task.workers=9999", ["task.val_fraction", "task.workers"]),
        ("task.model.clases=4 task.workers=9999 task.test._target_=my_parts.Stream", ["task.model.clases", "task.test", "task.workers"]),
        ("task.model=null task.workers=9999 task.pin_memory=perhaps", ["task.model", "task.pin_memory", "task.workers"]),
        ("task.metrics.f1=3 task.workers=9999 task.val_fraction=0.001", ["task.metrics.f1", "task.val_fraction", "task.workers"]),
        ("task.target=3 task.train.broken=0 task.val_fraction=0 task.test._target_=my_parts.Points task.test.broken=0", ["task.target", "task.test", "task.train"]),
        ("task.train=my_parts.Points task.workers=9999", ["task.train"]),
        ("task._target_=my_parts.Nowhere task.workers=9999", ["task._target_"]),
    ],
)  # fmt: skip
def test_what_only_the_data_tell_comes_together_with_wrong_types(
    refused: Callable[..., list[str]], overrides: str, keys: list[str]
) -> None:
    found = refused(NET, POINTS, *overrides.split())
    assert [line.split(":")[0] for line in found] == keys


@pytest.mark.parametrize(
    ("overrides", "got", "better"),
    [
        (["train.batch_size=1"], "1 of 150", 2),
        (["train.batch_size=149", "train.duration=2ep"], "149 of 150", 150),
        (["train.accumulate=9"], "16 of 150 in 9 micro-batches", 18),
    ],
)
def test_a_batch_of_one_example_is_refused_where_batch_norm_cannot_train_on_it(
    refused: Callable[..., list[str]], overrides: list[str], got: str, better: int
) -> None:
    words = ["task.model._target_=my_parts.BatchNormed", POINTS, "task.val_fraction=0"]
    rule = "must leave no batch of one example, which BatchNorm cannot train on"
    fix = f"Set train.batch_size={better}, or use another norm."
    assert refused(*words, *overrides) == [f"train.batch_size: {rule}, got {got}. {fix}"]


def test_batch_norm_trains_where_no_batch_of_one_example_comes_up(launch: Launch) -> None:
    words = ["task.model._target_=my_parts.BatchNormed", POINTS, "task.val_fraction=0", "train.batch_size=149"]
    assert launch(*words, "train.duration=1").code == 0
    assert launch(*words[:-1], "train.batch_size=16", "train.duration=1ep").code == 0


def test_trying_a_model_on_one_example_leaves_its_statistics_alone() -> None:
    made, model = task(train=own_parts.Points(17), val_fraction=0), own_parts.BatchNormed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match="must leave no batch of one example"):
        probe(made, model, TrainPlan(steps=2), batch_size=16, with_metrics=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_made_for_one_batch_size_is_tried_with_it(launch: Launch) -> None:
    words = ["task.model._target_=my_parts.Exact", POINTS, "task.train.n=64", "task.val_fraction=0.5"]
    done = launch(*words, "train.batch_size=16", "train.duration=2ep", "train.eval_every=1")
    assert done.code == 0, done.err
    assert launch(*words, "train.batch_size=8", "train.duration=2ep").code == 2


BROKEN = {
    "syntax": ("class Net(:\n", "SyntaxError: invalid syntax ({file}:1), got 'broken.Net'. Mend that file."),
    "import": ("import torhc\n", "ModuleNotFoundError: No module named 'torhc' ({file}:1), got 'broken.Net'. Install torhc, or mend the import."),
    "name": ("import torch\nfrom torch import nm\n", "ImportError: cannot import name 'nm' from 'torch' ({torch}) ({file}:2), got 'broken.Net'. Mend that file."),
    "error": ("\nx = 1 / 0\n", "ZeroDivisionError: division by zero ({file}:2), got 'broken.Net'. Mend that file."),
    "exit": ("import sys\nsys.exit(4)\n", "SystemExit: 4 ({file}:2), got 'broken.Net'. Mend that file."),
}  # fmt: skip


@pytest.mark.parametrize(("code", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(
    refused: Callable[..., list[str]], tmp_path: Path, code: str, message: str
) -> None:
    file = tmp_path / "code/broken.py"
    file.write_text(code)
    found = refused("task.model._target_=broken.Net", POINTS)
    wanted = message.format(file=file, torch=torch.__file__)
    assert found == [f"task.model._target_: must be importable, but {wanted}"]


EXITS = """
import sys
from my_parts import Net, Points
from runner.tasks.quadratic import Quadratic

class Data(Points):
    def __init__(self): sys.exit(7)

class Model(Net):
    def __init__(self): sys.exit()

class Forward(Net):
    def forward(self, x): sys.exit(3)

class Whole(Quadratic):
    def __init__(self): sys.exit(0)

class Late(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        return sys.exit(0) if step > 2 else super().batch(step, split, part)
"""
AGAINST_EXIT = "Raise an exception there, which says what is wrong."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([NET, "task.train._target_=exits.Data"], "task.train: must be accepted by exits.Data, which ends the program: SystemExit: 7 ({file}:7)."),
        ([POINTS, "task.model._target_=exits.Model"], "task.model: must be accepted by exits.Model, which ends the program: SystemExit ({file}:10)."),
        ([POINTS, "task.model._target_=exits.Forward"], "task.model: must take inputs (float32 (2, 8)), but Forward says: SystemExit: 3."),
        (["task=digits", "~task", "+task._target_=exits.Whole"], "task: must be accepted by exits.Whole, which ends the program: SystemExit: 0 ({file}:16)."),
    ],
)  # fmt: skip
def test_code_that_ends_the_program_is_refused_by_name_beside_other_problems(
    refused: Callable[..., list[str]], tmp_path: Path, overrides: list[str], message: str
) -> None:
    file = tmp_path / "code/exits.py"
    file.write_text(EXITS)
    found = refused(*overrides)
    assert found[0].startswith(message.format(file=file)), found


def test_code_that_ends_the_program_while_it_trains_fails_the_run(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text(EXITS)
    done = launch("task._target_=exits.Late", task="task=quadratic")
    assert done.code == 1
    assert done.err == f"task: must not end the program, got SystemExit: 0 ({tmp_path}/exits.py:20). {AGAINST_EXIT}\n"
    assert json.loads((done.run / "result.json").read_text())["status"] == "failed"


def test_a_target_that_backward_does_not_take_is_found_before_training(refused: Callable[..., list[str]]) -> None:
    found = refused(NET, TENSORS, "task.loss._target_=tests.test_supervised.only_forward")
    assert found[0].startswith(
        "task.loss: must have a gradient for outputs float32 (2, 3), but torch says: RuntimeError"
    )


class _OnlyForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return outputs.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("no way back")


def only_forward(outputs: Tensor, targets: Tensor) -> Any:
    return _OnlyForward.apply(outputs)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.train.broken=77"], "task.train: must give an item at every index, got OSError: truncated file at index 77. Mend the item or leave it out."),
        (["task.train.broken=77", "task.workers=1"], "task.train: must give an item at every index, got OSError: truncated file at index 77. Mend the item or leave it out."),
        (["task.train.exits=77", "task.workers=1"], "task.train: must give an item at every index, got SystemExit: 0 at index 77. Mend the item or leave it out."),
        (["task.train.wide=77", "task.workers=1"], "task.train: must give items that torch's default_collate can join, got (float32 (9,), int) at index 77 beside (float32 (8,), int) at index "),
        (["task.train.deadly=77", "task.workers=1"], "task.workers: must be processes that stay alive, got "),
    ],
)  # fmt: skip
def test_what_only_training_can_find_ends_the_run_as_failed_with_the_reason(
    launch: Launch, overrides: list[str], message: str
) -> None:
    spawn = "task.train.deadly=77" in overrides
    done = launch(*OWN, "task.val_fraction=0", "train.duration=1ep", *overrides, spawn=spawn)
    assert done.code == 1
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1
    result = json.loads((done.run / "result.json").read_text())
    assert (result["status"], message in result["verdict"]) == ("failed", True)
    assert "test_supervised" not in done.err
    if "broken" in overrides[0]:
        assert "my_parts.py" in (done.run / "traceback.txt").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["train.duration=3ep", "train.eval_every=1ep"],
        ["train.duration=1ep", "task.train.broken=77", "task.val_fraction=0"],
        ["mode=check", "train.duration=3ep"],
        ["-m", "seed=0,1", "train.duration=1ep"],
    ],
)
def test_no_worker_outlives_its_run(launch: Launch, words: list[str]) -> None:
    done = launch(*OWN, "task.workers=1", *words)
    assert done.code == int("broken" in words[1]), done.err
    assert multiprocessing.active_children() == []


def test_no_worker_outlives_an_evaluation(launch: Launch) -> None:
    done = launch(*OWN, "task.workers=1", "train.duration=1ep")
    assert launch("mode=eval", f"source={done.run}", "mode.split=train", task=None).code == 0
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("launch")
def test_ctrl_c_ends_a_run_with_workers_in_order(tmp_path: Path) -> None:
    """A terminal sends the signal to the workers, too."""
    words = [*OWN, "task.workers=1", "train.duration=20000ep", "train.checkpoint_every=20"]
    process = Forked("tracking=off", "task=supervised", *words, directory=tmp_path, environment=ENVIRONMENT)
    wait_for(lambda: list(tmp_path.glob("runs/*/*/checkpoints/last.pt")))
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = process.communicate()
    assert code == 130, err
    assert (
        "interrupted by SIGINT" in json.loads((tmp_path / out.splitlines()[-1] / "result.json").read_text())["verdict"]
    )
    assert err == ""
    wait_for(lambda: is_gone(process.pid))


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
