"""Curves are read from any usual file: which column is what, what is data and what is a fault, how long it may be."""

import gzip
import io
import json
import math
import struct
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.diagnose import diagnose
from runner.errors import ConfigError
from runner.known import family_of, known_of_overrides, known_of_page
from runner.readers.blocks import MOST_ROWS, Blocks
from runner.readers.collect import Collector
from runner.readers.read import Reading, read_curve
from runner.readers.roles import Role, find_roles
from runner.readers.tensorboard import is_event_file
from runner.records import RunResult, Status, StepRecord, to_json

Write = Callable[[str, str | bytes], str]
nan, inf = math.nan, math.inf


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def numbers(reading: Reading) -> dict[str, list[float]]:
    """Everything that was read, nan as text so that it compares."""
    curve = reading.curve
    found: dict[str, list[float]] = {"steps": list(curve.steps), "losses": list(curve.losses)}
    found |= {"lrs": list(curve.lrs)} if curve.lrs is not None else {}
    found |= {"norms": list(curve.grad_norms)} if curve.grad_norms is not None else {}
    found |= {"evals": [number for point in curve.evals for number in point]} if curve.evals else {}
    return found


def same(found: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> bool:
    """Whether columns are equal, nan to nan."""
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name], equal_nan=True) for name in expected
    )


LIGHTNING = "epoch,lr-AdamW,step,train_loss_epoch,train_loss_step,val_loss\n" + "".join(
    f",0.1,{step},,,\n0,,{step},,{2 - step / 100},\n" for step in (49, 99, 149)
)
TRAINER = {
    "max_steps": 30,
    "train_batch_size": 8,
    "log_history": [
        {"step": 10, "epoch": 0.3, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0},
        {"step": 20, "epoch": 0.6, "loss": nan, "learning_rate": 5e-4, "grad_norm": nan},
        {"step": 20, "epoch": 0.6, "eval_loss": 2.0, "eval_runtime": 1.0},
        {"step": 20, "epoch": 0.6, "train_loss": 2.4, "train_runtime": 3.0},
    ],
}
WANDB = '"Step","run-1 - train/loss","run-1 - train/loss__MIN","run-1 - train/loss__MAX"\n"0","2.5","2.5","2.5"\n'
RESUMED = "".join(f"{step},{step / 8}\n" for step in (0, 1, 2, 3, 4, 5, 3, 4, 5, 6))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("log.txt", "loss: 2.5\nloss: nan\n", {"steps": [0, 1], "losses": [2.5, nan]}),
        (
            "log_of_transformers.txt",
            "{'loss': 2.5, 'grad_norm': 1.0, 'learning_rate': 5e-05, 'epoch': 0.1}\n{'eval_loss': 2.2, 'epoch': 0.1}\n"
            "{'loss': 2.4, 'grad_norm': nan, 'learning_rate': 4e-05, 'epoch': 0.2}\n",
            {"steps": [0, 1], "losses": [2.5, 2.4], "lrs": [5e-5, 4e-5], "norms": [1.0, nan], "evals": [1, 2.2]},
        ),
        (
            "log_with_more.txt",
            "starting\n[2024-01-01 12:00:00,123] INFO step 5: train loss 2.5, val loss 2.6, grad norm 1, 3ms/step\n"
            "[2024-01-01 12:00:01,123] INFO step 6: train loss 2.4, val loss 2.5, grad norm 2, 3ms/step\n",
            {"steps": [5, 6], "losses": [2.5, 2.4], "norms": [1, 2], "evals": [5, 2.6, 6, 2.5]},
        ),
        (
            "log_with_thousands.txt",
            "step 1,000/10,000 loss 2.5\nstep 1,001/10,000 loss 1,234.5\n",
            {"steps": [1000, 1001], "losses": [2.5, 1234.5]},
        ),
        ("log_without_blanks.txt", "step:1,loss:2.5,3\nstep:2,loss:2.4,3\n", {"steps": [1, 2], "losses": [2.5, 2.4]}),
        (
            "log_with_decimal_commas.txt",
            "step: 1, loss: 2,98, lr: 0,1\nstep: 2, loss: 2,875, lr: 0,1\n",
            {"steps": [1, 2], "losses": [2.98, 2.875], "lrs": [0.1, 0.1]},
        ),
        (
            "log_with_times.txt",
            "[2024-01-01 12:00:00] step 1 loss 2.5\n[2024-01-01 12:00:01] step 2 loss 2.4\n",
            {"steps": [1, 2], "losses": [2.5, 2.4]},
        ),
        ("log_with_places.txt", "[10/100] loss=2.5\n[20/100] loss=2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        (
            "bar.txt",
            " 1%| 1/99 [0:01, loss=2.5]\r 2%| 2/99 [0:02, loss=2.4]\r",
            {"steps": [0, 1], "losses": [2.5, 2.4]},
        ),
        ("array.txt", "losses = np.array([2.5, None,\n 2.4])", {"steps": [0, 1, 2], "losses": [2.5, nan, 2.4]}),
        ("bars.txt", "2.5|2.4", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("decimal_commas.txt", "2,5 2,4; 2,6", {"steps": [0, 1, 2], "losses": [2.5, 2.4, 2.6]}),
        ("decimal_commas_to_nan.txt", "2,5\n2,4\nnan\n", {"steps": [0, 1, 2], "losses": [2.5, 2.4, nan]}),
        ("decimal_commas_and_steps.txt", "0;2,5\n1;2,4\n2;nan\n", {"steps": [0, 1, 2], "losses": [2.5, 2.4, nan]}),
        ("no_header.csv", "0;2,5\n1;2,4\n2;2,6\n", {"steps": [0, 1, 2], "losses": [2.5, 2.4, 2.6]}),
        ("null_pairs.txt", "null,2\n1,3\n", {"steps": [0, 1, 2, 3], "losses": [nan, 2, 1, 3]}),
        ("pairs.txt", "0,2\n1,3\n2,4\n", {"steps": [0, 1, 2], "losses": [2, 3, 4]}),
        ("bare.csv", "loss\n2.5\nnan\n-inf\nInfinity\n", {"steps": [0, 1, 2, 3], "losses": [2.5, nan, -inf, inf]}),
        (
            "all.csv",
            "iteration,train/loss,learning_rate,gnorm,validation_loss\n0,2.5,0.1,1,\n10,2.4,0.2,2,2.6\n",
            {"steps": [0, 10], "losses": [2.5, 2.4], "lrs": [0.1, 0.2], "norms": [1, 2], "evals": [10, 2.6]},
        ),
        (
            "empty_cell.csv",
            "step,loss,lr\n0,2.5,0.1\n1,,0.1\n2,2.4,0.1\n",
            {"steps": [0, 1, 2], "losses": [2.5, nan, 2.4], "lrs": [0.1, 0.1, 0.1]},
        ),
        ("comma.csv", "step;loss\n0;2,5\n1;1e-3\n", {"steps": [0, 1], "losses": [2.5, 1e-3]}),
        ("tab.txt", "global_step\tTraining Loss\n3\t2.5\n4\t2.4\n", {"steps": [3, 4], "losses": [2.5, 2.4]}),
        ("blanks.txt", "step   loss\n0   2.5\n1   2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("no_header.txt", "0 2.5\n1 2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("comment.csv", "# my run\nstep,loss\n0,2.5\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("text.csv", "run,step,loss\nabc,0,2.5\nabc,1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("pandas.csv", ",loss\n0,2.5\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("mark.csv", "\ufeffstep,loss\n0,2.5\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("wide.csv", "step\tloss\n0\t2.5\n1\t2.4\n".encode("utf-16"), {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("small.csv.gz", gzip.compress(b"step,loss\n0,2.5\n1,2.4\n", mtime=0), {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("torn.csv", "step,loss\n0,2.5\n1,2.4\n2", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("list.txt", "2.5, 2.4, 2.6, NaN", {"steps": [0, 1, 2, 3], "losses": [2.5, 2.4, 2.6, nan]}),
        ("lines.txt", "2.5\n2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("wrapped.txt", "2.5 2.4\n2.6 3.1\n", {"steps": [0, 1, 2, 3], "losses": [2.5, 2.4, 2.6, 3.1]}),
        ("printed.txt", "[2.5, 2.4,\n 2.6]", {"steps": [0, 1, 2], "losses": [2.5, 2.4, 2.6]}),
        (
            "metrics.csv",
            LIGHTNING + "0,,149,,,1.9\n0,,149,1.8,,\n",
            {"steps": [49, 99, 149], "losses": [1.51, 1.01, 0.51], "lrs": [0.1, 0.1, 0.1], "evals": [149, 1.9]},
        ),
        ("wandb.csv", WANDB + '"1","NaN","NaN","NaN"\n', {"steps": [0, 1], "losses": [2.5, nan]}),
        (
            "log.jsonl",
            '{"step":0,"loss":2.5,"lr":0.1}\n{"step":1,"loss":null,"lr":0.1}\n{"step":1,"val":{"loss":2.2}}\n{"st',
            {"steps": [0, 1], "losses": [2.5, nan], "lrs": [0.1, 0.1], "evals": [1, 2.2]},
        ),
        (
            "split.json",
            '{"mode":"train","iter":1,"loss":2.5}\n{"mode":"val","iter":1,"loss":2.9}\n{"mode":"train","iter":2,"loss":2}\n',
            {"steps": [1, 2], "losses": [2.5, 2], "evals": [1, 2.9]},
        ),
        (
            "trainer_state.json",
            json.dumps(TRAINER),
            {"steps": [10, 20], "losses": [2.5, nan], "lrs": [1e-3, 5e-4], "norms": [1, nan], "evals": [20, 2.0]},
        ),
        (
            "history.json",
            '{"loss": [2.5, 2.4], "val_loss": [2.6, 2.5]}',
            {"steps": [0, 1], "losses": [2.5, 2.4], "evals": [0, 2.6, 1, 2.5]},
        ),
        (
            "lightning_alone.csv",  # without learning rates; the last rows of an epoch have no loss of a step
            "epoch,step,loss_epoch,loss_step,val_acc\n0,9,,2.5,\n0,19,,2.4,\n0,24,,,0.5\n0,24,2.45,,\n1,29,,2.3,\n",
            {"steps": [9, 19, 29], "losses": [2.5, 2.4, 2.3]},
        ),
        (
            "thousands.csv",
            'step,loss\n0,"2,500.5"\n"1,000","2,400.5"\n',
            {"steps": [0, 1000], "losses": [2500.5, 2400.5]},
        ),
        ("points.csv", "step;loss\n0;2.500,5\n1.000;2.400,5\n", {"steps": [0, 1000], "losses": [2500.5, 2400.5]}),
        ("units.csv", "step,loss\n[it],[nats]\n0,2.5\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("joined.csv", "step,loss\n0,2.5\nstep,loss\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        ("title.csv", "My run\n\nstep,loss\n0,2.5\n1,2.4\n", {"steps": [0, 1], "losses": [2.5, 2.4]}),
        (
            "markdown.txt",
            "| step | loss |\n|---|---|\n| 0 | 2.5 |\n| 1 | 2.4 |\n",
            {"steps": [0, 1], "losses": [2.5, 2.4]},
        ),
        (
            "tensorboard.csv",
            "Wall time,Step,Value\n1.7e9,0,2.5\n1.7e9,9,2.4\n",
            {"steps": [0, 9], "losses": [2.5, 2.4]},
        ),
        (
            "batches.csv",
            "epoch,batch,loss\n0,0,5\n0,1,4\n1,0,3\n1,1,2\n2,0,1\n",
            {"steps": [0, 1, 2, 3, 4], "losses": [5, 4, 3, 2, 1]},
        ),
        ("resumed.csv", "step,loss\n" + RESUMED, {"steps": [*range(7)], "losses": [step / 8 for step in range(7)]}),
        ("unordered.csv", "step,loss\n0,1\n10,2\n2,3\n", {"steps": [0, 2, 10], "losses": [1, 3, 2]}),
        ("epochs.csv", "epoch,loss\n0,4\n0,3\n0,2\n1,1\n", {"steps": [0, 1, 2, 3], "losses": [4, 3, 2, 1]}),
        ("shares.csv", "epoch,loss\n0.1,4\n0.2,3\n", {"steps": [0, 1], "losses": [4, 3]}),
    ],
)
def test_format_is_found_in_the_content(
    write: Write, name: str, content: str | bytes, expected: dict[str, list[float]]
) -> None:
    found = numbers(read_curve(write(name, content), {}))
    assert same(found, expected), found


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("step,loss\n" + RESUMED, "steps go back from 5 to 3 as in a resumed run; the later rows are kept"),
        ("step,loss\n0,1\n10,2\n2,3\n", "rows are not in the order of their steps; they are sorted"),
        ("step,loss\n0,4\n1,3\n1,2\n2,1\n", "1 row has the step of another one; the last of each step is kept"),
        ("epoch,loss\n0,4\n0,3\n0,2\n1,1\n", "as most of the recorded ones repeat that of the row before"),
        ("epoch,loss\n0.1,4\n0.2,3\n", "as the recorded ones are not whole numbers"),
        ("step,loss,lr\n0,4,1\n1,,1\n", "1 empty cell is read as a loss of nan"),
        ("step,loss\n0,2.5\n1,2.4\n2", "the unfinished last row is left out"),
        ("2,5 2,4", "commas are read as decimal points, as there is one in each number"),
        ("loss 0,250\nloss 0,125\n", "commas in numbers are read as decimal points"),
        ("begin\nloss 2.5\nloss 2.4\n", "1 line without a named number is left out"),
        ('step,loss\n0,1\n"1,000",2\n', "commas in numbers are read as marks of thousands"),
        (
            "step,loss\n[it],[nats]\n0,1\n1,2\n",
            "the line with '[it]', '[nats]' is taken for a second one of the header",
        ),
        ("step,loss\n0,1\nstep,loss\n1,2\n", "1 row repeats the header and is left out"),
        ("step  loss\n0  2.5\n1  2.4\n2", "the unfinished last row is left out"),
        ("step  loss\n0 1\nstep loss\n1 2\n", "1 row repeats the header and is left out"),
        ("My run\nstep,loss\n0,1\n1,2\n", "1 line before the table is left out"),
        ("batch,loss\n0,4\n1,3\n0,2\n1,1\n0,1\n", "rows are counted as steps, as the recorded ones begin anew 2 times"),
        (
            "step,objective\n0,2.5\n1,2.4\n",
            "column 'objective' is taken for the loss, as it is the only one that may be",
        ),
    ],
)
def test_what_was_decided_on_the_way_is_said(write: Write, content: str, note: str) -> None:
    assert [text for text in read_curve(write("x.csv", content), {}).notes if note in text]


@pytest.mark.parametrize("columns", [1, 40])
def test_rows_of_other_columns_are_no_losses_however_many_there_are(write: Write, columns: int) -> None:
    """What a tracker exports with a column a metric: its row is of that metric alone."""
    names = [f"metric_{i}" for i in range(columns)]
    rows = [f"{2 * step},{3 - step / 100}" + "," * columns for step in range(100)]
    rows.insert(50, "99," + "," * columns + "1.0")
    reading = read_curve(write("x.csv", ",".join(["step", "loss", *names]) + "\n" + "\n".join(rows) + "\n"), {})
    assert list(reading.curve.steps) == [2 * step for step in range(100)]
    assert all(map(math.isfinite, reading.curve.losses))
    assert not reading.notes


@pytest.mark.parametrize(
    ("second", "count"),
    [
        ([2.0 - step / 100 for step in range(50)], 100),  # a second epoch
        ([2.0 - step / 100 for step in range(20)] + [nan], 71),  # one that has not ended
        ([3.0 - step / 50 for step in range(50)], 50),  # begun again from the same weights
        ([2.4 - step / 100 for step in range(60)], 60),  # which got further
    ],
)
def test_counter_that_begins_anew_once_is_that_of_a_second_epoch_where_the_loss_goes_on(
    write: Write, second: list[float], count: int
) -> None:
    rows = [*((step, 3.0 - step / 50) for step in range(50)), *enumerate(second)]
    found = read_curve(write("x.csv", "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows)), {})
    assert found.rows == len(found.curve.losses) == count
    assert any("begin anew once" in note for note in found.notes) == (count > 60)


@pytest.mark.parametrize(
    ("names", "loss"),
    [
        (["loss", "aux_loss"], "loss"),
        (["train/loss", "train/loss_ema"], "train/loss"),
        (["train/loss_ce", "train/loss"], "train/loss"),
        (["train_loss_epoch", "train_loss_step"], "train_loss_step"),
        (["val_loss", "Loss/train"], "Loss/train"),
        (["trainLoss", "testLoss"], "trainLoss"),
        (["eval/loss", "train/nll"], "train/nll"),
        (["step", "kl_loss"], "kl_loss"),
    ],
)
def test_training_loss_is_known_by_its_name(names: list[str], loss: str) -> None:
    assert find_roles(names, {}).loss == loss


@pytest.mark.parametrize(
    ("names", "role", "found"),
    [
        (["loss", "step", "epoch", "trainer/global_step"], "step", "trainer/global_step"),
        (["loss", "_step", "_runtime"], "step", "_step"),
        (["loss", "lr-AdamW/pg2", "lr"], "lr", "lr"),
        (["loss", "learningRate"], "lr", "learningRate"),
        (["loss", "lr_scale", "color"], "lr", None),
        (["loss", "grad_norm_clipped", "grad_norm"], "grad_norm", "grad_norm"),
        (["loss", "grad_2.0_norm_total"], "grad_norm", "grad_2.0_norm_total"),
        (["loss", "weight_norm"], "grad_norm", None),
        (["loss", "test_loss", "valid_loss"], "val_loss", "valid_loss"),
        (["loss", "val_accuracy"], "val_loss", None),
    ],
)
def test_other_columns_are_known_by_their_names(names: list[str], role: str, found: str | None) -> None:
    assert getattr(find_roles(names, {}), role) == found


TOO_FEW = "source: must hold at least 2 losses, got "
NO_NAME = "source.columns.loss: must name the column with the training loss, as no name says it, got "
MAY_BE = "source.columns.loss: must name one of the columns that may be the training loss "
OOPS = "".join(f"{row},{'oops' if row % 3 == 0 else 2}\n" for row in range(30))


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("x.csv", "", ["source: must hold a curve, got nothing in x.csv. Give a file with at least two losses."]),
        ("x.csv", " \n\n", ["source: must hold a curve, got nothing in x.csv."]),
        ("x.csv", "step,loss\n", [TOO_FEW + "nothing."]),
        ("x.csv", "step,loss", [TOO_FEW + "nothing."]),
        ("x.txt", "loss=2.5", [TOO_FEW + "one loss, 2.5."]),
        ("x.csv", "loss\n2.5\n", [TOO_FEW + "one loss, 2.5. Give a longer curve."]),
        ("x.txt", "2.5", [TOO_FEW + "one loss, 2.5."]),
        ("x.csv", "loss\nnan\ninf\n", ["source: must hold a loss that is finite, got 2 that are not. What broke"]),
        (
            "x.csv",
            "step,loss\n0,2\n1,oops\n2,tensor(3.)\n",
            ["source: must hold numbers, got 'oops' in row 3, column 'loss'; 'tensor(3.)' in row 4, column 'loss'. "],
        ),
        ("x.csv", "step,loss\n" + OOPS, ["'oops' in row 14, column 'loss' and 5 more. Mend or empty these cells"]),
        (
            "x.csv",
            "step,loss\n0,2\n1\n2,3,4\n3,x\n4,5\n",
            [
                "source: must hold numbers, got 'x' in row",
                "source: must hold rows of 2 cells, as its first has, got 1 in row 3; 3 in row 4. Mend these rows.",
            ],
        ),
        ("x.csv", "step,acc,speed\n0,2,3\n1,2,3\n", [NO_NAME + "'step', 'acc', 'speed'. Set source.columns.loss to"]),
        ("x.csv", "step,val_acc\n0,0.1\n1,0.2\n", [NO_NAME + "'step', 'val_acc'. Set source.columns.loss to"]),
        ("x.csv", "step,lr\n0,0.1\n1,0.2\n", [NO_NAME + "'step', 'lr'. Set source.columns.loss to"]),
        (
            "x.csv",
            "step,a_loss,b_loss\n0,2,3\n1,2,3\n",
            [MAY_BE + "('a_loss', 'b_loss'), got 'step', 'a_loss', 'b_loss'. Set source.columns.loss=a_loss."],
        ),
        (
            "x.txt",
            "lr: 0.1 loss: 2,98\nlr: 0.1 loss: 2.97\n",
            ["numbers spelled alike: commas before decimals, or points, got '2,98' in row 1, name 'loss'."],
        ),
        (
            "x.txt",
            "step  loss\n0  2.5\n1\n2  x\n3  2.2\n",
            ["rows of 2 cells, as its first has, got 1 in row 3.", "numbers, got 'x' in row 4, column 'loss'."],
        ),
        ("x.txt", "hello world\nthis is text\n", ["source: must be one of CSV, JSONL, JSON with log_history or lists"]),
        ("x.bin", bytes(range(256)), ["source: must be one of CSV, JSONL", "got x.bin with bytes that are no text."]),
        (
            "x.csv",
            "l\xfcss,loss\n1,2\n".encode("latin-1"),
            ["source: must be text in UTF-8, got x.csv whose byte 1 is"],
        ),
        (
            "x.csv",
            gzip.compress(b"step,loss\n0,2\n" * 99, mtime=0)[:30],
            ["source: must be what can be read, got"],
        ),
        ("x.json", '{"a": 1}', ['an object with \'a\'. Write a line {"step": 0, "loss": 2.5} for every step.']),
        ("x.json", '[{"loss": 1},\n{"loss": 2}', ["source: must be JSON, as it begins like it, but"]),
        ("x.json", '{"a": [1,', ["source: must be JSON, as it begins like it, but"]),
        (
            "x.json",
            '{"loss": [1, 2, 3], "lr": [1, 2]}',
            ["as many values in each column, got 'loss' with 3, 'lr' with 2."],
        ),
        ("x.json", '{"loss": [1, 2, "x"]}', ["source: must hold numbers, got 'x' in place 3 of 'loss'."]),
        (
            "x.jsonl",
            '{"loss": 1}\n{"loss": "x"}\nnonsense\n[1]\n',
            ["source: must hold JSON objects, one a line, got 'nonsense' in row 3; '[1]' in row 4. Mend these lines."],
        ),
        (
            "x.csv",
            'step,loss\n0,"tensor(2., 3)"\n1,"tensor(3.)"\n',
            ["got 'tensor(2., 3)' in row 2, column 'loss'; 'tensor(3"],
        ),
        ("x.jsonl", '{"loss": 1}\n{"loss": "x"}\n', ["source: must hold numbers, got 'x' in row 2, column 'loss'."]),
    ],
)
def test_what_is_no_curve_is_refused_with_all_that_is_wrong(
    write: Write, name: str, content: str | bytes, problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_curve(write(name, content), {})
    lines = list(map(str, refused.value.problems))
    assert all(any(problem in line for line in lines) for problem in problems), lines


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "step,loss,grad_norm\n0,2.5,1\n1,2.4,\n2,2.3,nan\n3,2.2,\n"),
        (
            "x.jsonl",
            '{"step":0,"loss":2.5,"grad_norm":1}\n{"step":1,"loss":2.4}\n{"step":2,"loss":2.3,"grad_norm":null}\n'
            '{"step":3,"loss":2.2}\n',
        ),
    ],
)
def test_norm_that_a_row_lacks_is_the_one_before_and_not_nan(write: Write, name: str, content: str) -> None:
    norms = read_curve(write(name, content), {}).curve.grad_norms
    assert norms is not None
    assert np.array_equal(norms, [1, 1, nan, nan], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "step,loss,val_loss\n0,2.5,\n1,2.4,nan\n2,2.3,2.6\n"),
        ("x.jsonl", '{"loss":2.5}\n{"loss":2.4,"val_loss":null}\n{"loss":2.3,"val_loss":2.6}\n'),
    ],
)
def test_held_out_loss_that_is_nan_is_kept_and_one_that_is_not_there_is_none(
    write: Write, name: str, content: str | bytes
) -> None:
    evals = read_curve(write(name, content), {}).curve.evals
    assert np.array_equal(evals, [(1, nan), (2, 2.6)], equal_nan=True)


def test_evaluations_alone_are_refused_with_the_column_to_take(write: Write) -> None:
    history = [{"step": step, "epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 1.0} for step in (1, 2)]
    with pytest.raises(ConfigError, match=r"Set source\.columns\.loss=eval_loss to have the loss on held-out data"):
        read_curve(write("trainer_state.json", json.dumps({"log_history": history})), {})


def test_columns_may_be_named_by_hand(write: Write) -> None:
    path = write("x.csv", "t,score,rate\n5,2.5,1\n6,2.4,1\n")
    found = numbers(read_curve(path, {"step": "t", "loss": "score", "lr": "rate"}))
    assert same(found, {"steps": [5, 6], "losses": [2.5, 2.4], "lrs": [1, 1]})
    with pytest.raises(ConfigError) as refused:
        read_curve(path, {"loss": "scores", "lr": "rat"})
    there = "must be a column of the source ('t', 'score', 'rate'), got"
    assert list(map(str, refused.value.problems)) == [
        f"source.columns.loss: {there} 'scores'. Did you mean source.columns.loss='score'?",
        f"source.columns.lr: {there} 'rat'. Did you mean source.columns.lr='rate'?",
    ]


def test_several_runs_in_one_export_must_be_told_apart(write: Write) -> None:
    path = write("x.csv", '"Step","a - loss","b - loss"\n"0","2.5","1.5"\n"1","2.4","1.4"\n')
    with pytest.raises(ConfigError, match=r"Set source\.columns\.loss=\"'a - loss'\"\."):
        read_curve(path, {})
    assert read_curve(path, {"loss": "b - loss"}).curve.losses == [1.5, 1.4]


def test_path_that_is_not_there_is_refused_with_the_nearest(write: Write) -> None:
    path = write("curve.csv", "loss\n1\n2\n")
    with pytest.raises(
        ConfigError, match=r"source: must be there, got '.*curv\.csv'\. Did you mean source=.*curve\.csv\?"
    ):
        read_curve(path.replace("curve", "curv"), {})


@pytest.mark.parametrize("spelling", ["mlflow:nothing", "http://localhost:5000/#/experiments", "runs:/a"])
def test_what_begins_like_a_run_of_mlflow_and_is_none_is_refused(spelling: str) -> None:
    with pytest.raises(ConfigError, match="source: must name a run of MLflow, got"):
        read_curve(spelling, {})


# --- TensorBoard


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number: int, kind: int, content: bytes) -> bytes:
    return varint(number << 3 | kind) + (varint(len(content)) if kind == 2 else b"") + content


def event(step: int, tag: str, value: float, *, as_tensor: bool = False) -> bytes:
    """An Event of TensorBoard, framed, as `SummaryWriter` (simple_value) or TensorFlow 2 (tensor) write it."""
    tensor = field(1, 0, varint(1)) + field(2, 2, b"") + field(4, 2, struct.pack("<f", value))
    held = field(8, 2, tensor) if as_tensor else field(2, 5, struct.pack("<f", value))
    of_tag = field(1, 2, tag.encode()) + held
    message = field(1, 1, struct.pack("<d", 1.7e9)) + field(2, 0, varint(step)) + field(5, 2, field(1, 2, of_tag))
    return framed(message)


def framed(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + struct.pack("<I", masked(length)) + message + struct.pack("<I", masked(message))


def masked(data: bytes) -> int:
    """The checksum of a record, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


VERSION = framed(field(1, 1, struct.pack("<d", 1.7e9)) + field(3, 2, b"brain.Event:2"))


def test_first_record_of_tensorboard_is_known_by_its_checksum() -> None:
    # how files of tensorboardX and of tensorboard 2.20 begin
    assert is_event_file(bytes.fromhex("1800000000000000a37f4b22"))
    assert is_event_file(bytes.fromhex("4800000000000000fe92489d"))
    assert not is_event_file(bytes.fromhex("1900000000000000a37f4b22"))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_tensorboard_events_are_read_without_tensorboard(write: Write, as_tensor: bool) -> None:
    content = VERSION
    for step, loss in enumerate([2.5, 2.25, nan]):
        content += event(step * 1000, "train/loss", loss, as_tensor=as_tensor)
        content += event(step * 1000, "train/learning_rate", 0.5, as_tensor=as_tensor)
        content += event(step * 1000, "epoch", step / 10, as_tensor=as_tensor)
    content += event(2000, "eval/loss", 3.0, as_tensor=as_tensor)
    expected: dict[str, list[float]] = {
        "steps": [0, 1000, 2000],
        "losses": [2.5, 2.25, nan],
        "lrs": [0.5] * 3,
        "evals": [2000, 3.0],
    }
    path = write("logs/events.out.tfevents.1.host.0", content + event(3000, "train/loss", 1.0)[:-5])
    reading = read_curve(path, {})
    assert same(numbers(reading), expected)
    assert "step" not in reading.columns
    assert same(numbers(read_curve(str(Path(path).parent), {})), expected)
    assert same(numbers(read_curve(str(Path(path).parent.parent), {})), expected)


def test_event_files_of_one_folder_are_one_run_and_of_several_are_several(write: Write, tmp_path: Path) -> None:
    write("a/events.out.tfevents.1", VERSION + event(0, "loss", 2.0) + event(1, "loss", 1.5))
    write("a/events.out.tfevents.2", VERSION + event(1, "loss", 1.75) + event(2, "loss", 1.0))
    assert same(numbers(read_curve(str(tmp_path / "a"), {})), {"steps": [0, 1, 2], "losses": [2.0, 1.75, 1.0]})
    write("b/events.out.tfevents.1", VERSION + event(0, "loss", 2.0) + event(1, "loss", 1.5))
    with pytest.raises(ConfigError, match=r"source: must be one run, got '.*' with 2 \(.*a, .*b\)\. Set source=.*b\."):
        read_curve(str(tmp_path), {})


def test_training_and_validation_of_keras_are_one_run(write: Write, tmp_path: Path) -> None:
    for split, loss in (("validation", 3.0), ("train", 2.0)):
        content = VERSION + event(0, "epoch_loss", loss) + event(1, "epoch_loss", loss / 2)
        write(f"logs/{split}/events.out.tfevents.1", content)
    found = numbers(read_curve(str(tmp_path / "logs"), {}))
    assert same(found, {"steps": [0, 1], "losses": [2.0, 1.0], "evals": [0, 3.0, 1, 1.5]})


def test_damaged_event_file_is_refused(write: Write) -> None:
    good = VERSION + event(0, "loss", 2.0)
    path = write("events.out.tfevents.1", good + b"\1" * 40)
    with pytest.raises(ConfigError, match=r"got '.*' whose record 3 has a wrong checksum\. Export the curve as CSV\."):
        read_curve(path, {})
    with pytest.raises(ConfigError, match=r"as no name says it, got TensorBoard events with 'a', 'b'\."):
        read_curve(write("e.tfevents.1", VERSION + event(0, "a", 1.0) + event(0, "b", 1.0)), {})


# --- directories


def test_newest_checkpoint_of_transformers_is_read(write: Write, tmp_path: Path) -> None:
    for steps in (9, 10):
        history = [{"step": step, "loss": 1.0} for step in range(steps)]
        write(f"out/checkpoint-{steps}/trainer_state.json", json.dumps({"log_history": history}))
    assert len(read_curve(str(tmp_path / "out"), {}).curve.losses) == 10


def test_folder_of_one_run_is_read_and_one_of_several_is_refused(write: Write, tmp_path: Path) -> None:
    records = [StepRecord(step, 0, 2.0 - step, 0.1, 1.0, 8 * step) for step in range(3)]
    lines = "".join(to_json(record) + "\n" for record in records)
    write("runs/a/records.jsonl", lines)
    assert read_curve(str(tmp_path / "runs"), {}).name == "a"
    write("runs/b/records.jsonl", lines)
    with pytest.raises(ConfigError, match=r"must be one run, got '.*' with 2 \(.*/a, .*/b\)\. Set source=.*/b\."):
        read_curve(str(tmp_path / "runs"), {})


@pytest.mark.parametrize(
    ("status", "cut_short", "go_on"),
    [("running", True, 0), ("interrupted", True, 1), ("finished", False, 0), ("diverged", False, 0)],
)
def test_whether_a_run_of_ours_came_to_its_end_is_known(status: Status, cut_short: bool, go_on: int) -> None:
    result = RunResult("train", status, "", "", "digits", "", 0)
    known = known_of_page({}, result, directory="runs/digits/x")
    assert (known.was_cut_short, len(known.go_on)) == (cut_short, go_on)


def test_directory_without_records_is_refused_with_what_it_holds(write: Write, tmp_path: Path) -> None:
    write("a/notes.txt", "x")
    with pytest.raises(ConfigError, match=r"must be a directory with records\.jsonl, .*, got '.*' with notes\.txt\."):
        read_curve(str(tmp_path / "a"), {})
    write("b/sweep.json", "{}")
    with pytest.raises(ConfigError, match=r"must be one run, got '.*', which is that of a sweep\."):
        read_curve(str(tmp_path / "b"), {})


# --- length


def test_long_table_is_reduced_to_blocks_that_keep_what_matters(write: Write) -> None:
    rows = 300_000  # more than MOST_ROWS
    losses = np.full(rows, 2.0)
    losses[123_456], losses[200_001], losses[250_000] = 99.0, -3.0, nan
    norms = np.ones(rows)
    norms[77_777] = 1e6
    lines = (f"{step},{loss:g},{norm:g}" for step, loss, norm in zip(range(rows), losses, norms, strict=True))
    reading = read_curve(write("x.csv", "step,loss,grad_norm\n" + "\n".join(lines) + "\n"), {})
    curve = reading.curve
    assert reading.rows == rows
    assert len(curve.steps) <= MOST_ROWS
    assert {0, 123_456, 200_001, 250_000, 77_777, rows - 1} <= set(curve.steps)
    assert all(a < b for a, b in pairwise(curve.steps))
    place = list(curve.steps).index(123_456)
    assert curve.losses[place] == 99.0
    assert "300,000 rows are reduced to" in reading.notes[0]
    assert "keep their first, smallest, largest, steepest, last" in reading.notes[0]
    assert reading.curve.thinned == rows / len(curve.steps)


@pytest.mark.parametrize(("first", "width"), [(123_456, 1), (123_457, 3000)])
def test_spike_of_a_reduced_table_is_diagnosed_at_its_own_step(first: int, width: int) -> None:
    rows = 600_000
    shares, rng = np.arange(rows) / rows, np.random.default_rng(0)
    losses = (0.1 + 2.2 * np.exp(-8 * shares)) * np.exp(rng.normal(0, 0.05, rows))
    losses[first : first + width] *= 40
    collector = Collector(["loss"], has_steps=False)
    for start in range(0, rows, 50_000):
        collector.add({"loss": losses[start : start + 50_000]}, np.zeros(50_000, dtype=bool))
    columns = collector.columns()
    found = diagnose(Curve(columns.steps, columns.values["loss"], thinned=rows / len(columns.steps)))
    assert found.cause == "batch_spike"
    assert found.stretches[0].first == first
    assert 0 <= first + width - 1 - found.stretches[0].last < rows / len(columns.steps) * 5


@pytest.mark.parametrize("batch", [1000, 700_000])
def test_blocks_hold_little_and_are_of_equal_length(batch: int) -> None:
    total = 1_100_000
    blocks = Blocks(["loss", "step"])
    values = np.sin(np.arange(total) * 0.7)
    for start in range(0, total, batch):
        rows = np.arange(start, min(start + batch, total), dtype=np.float64)
        blocks.add(rows, {"loss": values[start : start + batch], "step": rows})
    rows, columns = blocks.take()
    assert len(rows) <= MOST_ROWS
    assert blocks.block == 32
    starts = np.arange(0, total, blocks.block)
    kept = np.searchsorted(rows, starts)
    assert np.array_equal(rows[kept], starts)
    for reduce in (np.minimum.reduceat, np.maximum.reduceat):
        assert np.array_equal(reduce(columns["loss"], kept), reduce(values, starts))


# --- what is known beside the curve


@pytest.mark.parametrize(
    ("section", "family"),
    [
        ({"_target_": "torch.optim.SGD", "momentum": 0.0}, "sgd"),
        ({"_target_": "torch.optim.SGD", "momentum": 0.9}, "momentum"),
        ({"_target_": "torch.optim.AdamW"}, "adaptive"),
        ({"_target_": "heavyball.ForeachPSGDKron"}, None),
        ({"_target_": "timm.optim.create_optimizer_v2", "opt": "nadamw"}, "adaptive"),
    ],
)
def test_family_of_an_optimizer_is_known_by_its_class(section: dict[str, object], family: str | None) -> None:
    assert family_of(section) == family


def test_only_what_was_typed_is_known_of_a_foreign_run() -> None:
    page = {
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.03},
        "warmup": {"_target_": "runner.schedules.warmups.linear", "duration": "10%"},
        "train": {"duration": 2000, "batch_size": 64, "clip_norm": None, "precision": "fp16"},
    }
    choices = {"optimizer": "adamw", "schedule": "cosine"}
    assert known_of_overrides(page, {"source.path"}, choices=choices) == {"options": {}}
    typed = {"optimizer", "optimizer.lr", "train.duration", "warmup.duration", "train.clip_norm", "train.precision"}
    found = Known(**known_of_overrides(page, typed, choices=choices))
    assert (found.family, found.lr, found.total_steps, found.warmup_steps) == ("adaptive", 0.03, 2000, 200)
    assert (found.clip_norm, found.precision, found.batch_size, found.schedule) == (inf, "fp16", None, None)
    assert found.options == {"optimizer": "adamw"}


def test_standard_input_is_read_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "step,loss\n" + "".join(f"{step},1.5\n" for step in range(20_000))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    given: dict[Role, str] = {}
    reading = read_curve("-", given)
    assert (reading.name, len(reading.curve.losses)) == ("standard input", 20_000)


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_standard_input_with_nothing_is_refused_as_such(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    problem = "source: must hold a curve, got nothing in standard input. Pipe in at least two losses."
    with pytest.raises(ConfigError) as refused:
        read_curve("-", {})
    assert list(map(str, refused.value.problems)) == [problem]
