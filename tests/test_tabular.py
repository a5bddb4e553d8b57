"""Tables from files: what becomes of their columns, what is refused, and that a run learns from them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from runner.errors import ConfigError
from runner.tasks.tabular import Tabular
from tests.conftest import Program, Refusal

Refuse = Callable[..., Refusal]

PEOPLE = 60


def people(**columns: Any) -> pd.DataFrame:
    """Ages with gaps, towns, and whether somebody came, which the age alone decides."""
    age = [float(20 + i) if i % 10 else math.nan for i in range(PEOPLE)]
    town = ["Ulm", "Bonn", "Kiel", None][0:4] * (PEOPLE // 4)
    came = ["yes" if i > PEOPLE // 2 else "no" for i in range(PEOPLE)]
    return pd.DataFrame({"age": age, "town": town, "came": came, **columns})


def written(table: pd.DataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return str(path)


def task(path: str | None, **arguments: Any) -> Tabular:
    return Tabular(batch_size=1000, seed=0, path=path, **arguments)


def rows(made: Tabular, split: str = "train") -> tuple[torch.Tensor, ...]:
    batch = made.batch(0, split)
    assert batch is not None
    return batch


def test_default_table_is_learned_to_more_than_95_percent(program: Program) -> None:
    done = program("task=tabular")
    assert done.code == 0, done.err
    result = json.loads((done.run / "result.json").read_text())
    assert result["best"]["accuracy"] > 0.95
    assert result["best"]["auroc"] > 0.98
    assert result["dataset"]["examples"] == {"train": 455, "val": 114}
    assert result["dataset"]["prior_entropy"] == pytest.approx(0.66, abs=0.01)


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_missing_values_and_categories_are_handled_in_both_formats(program: Program, tmp_path: Path, name: str) -> None:
    path = written(people(), tmp_path / name)
    done = program(
        "task=tabular", f"task.path={path}", "task.target=came", "train.batch_size=16", "train.duration=40ep"
    )
    assert done.code == 0, done.err
    assert json.loads((done.run / "result.json").read_text())["best"]["accuracy"] > 0.85


def test_columns_become_numbers_fitted_on_the_training_split(tmp_path: Path) -> None:
    made = task(written(people(), tmp_path / "people.csv"), target="came")
    inputs, targets = rows(made)
    # age standardised, age missing, four towns (one of them "missing")
    assert inputs.shape == (48, 6)
    assert set(inputs[:, 1].tolist()) == {0.0, 1.0}
    assert torch.equal(inputs[:, 2:].sum(dim=1), torch.ones(48))
    assert inputs[:, 0].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert inputs[:, 0].std(unbiased=False).item() == pytest.approx(1.0, abs=1e-5)
    assert made.classes == ("no", "yes")
    assert abs(targets.float().mean().item() - rows(made, "val")[1].float().mean().item()) < 0.1, "stratified"


def test_split_is_the_same_for_every_seed_and_the_order_is_not(tmp_path: Path) -> None:
    path = written(people(), tmp_path / "people.csv")
    one, other = (Tabular(batch_size=1000, seed=seed, path=path, target="came") for seed in (0, 1))
    assert torch.equal(rows(one, "val")[0], rows(other, "val")[0])
    assert not torch.equal(rows(one)[0], rows(other)[0])
    assert one.digest == other.digest


def test_regression_reports_errors_in_the_unit_of_the_target(program: Program, tmp_path: Path) -> None:
    path = written(load_diabetes(as_frame=True).frame, tmp_path / "diabetes.csv")
    done = program("task=tabular", f"task.path={path}", "task.target=target", "optimizer=adamw", "train.duration=20ep")
    assert done.code == 0, done.err
    final = json.loads((done.run / "result.json").read_text())["final"]
    assert final["val/rmse"] > final["val/mae"] > 20, "the target lies between 25 and 346"
    assert 0.2 < final["val/r2"] < 0.7
    train = pd.read_csv(path)["target"]
    assert final["val/rmse"] == pytest.approx(math.sqrt(final["val/loss"]) * train.std(), rel=0.1)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"] * 30, "classification"),
        ([True, False] * 30, "classification"),
        ([0, 1, 2] * 20, "classification"),
        (list(range(60)), "regression"),
        ([0.5, 1.5] * 30, "regression"),
        (pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d").tolist(), "regression"),
    ],
    ids=["text", "true and false", "few whole numbers", "many whole numbers", "fractions", "dates"],
)
def test_kind_is_found_from_the_target(tmp_path: Path, values: list[Any], kind: str) -> None:
    path = written(people(y=values), tmp_path / "table.csv")
    assert task(path, target="y").kind == kind


def test_kind_can_be_overridden(tmp_path: Path) -> None:
    path = written(people(y=[0, 1, 2] * 20), tmp_path / "table.csv")
    made = task(path, target="y", kind="regression")
    assert (made.kind, set(made.goals)) == ("regression", {"loss", "r2", "mae", "rmse"})


def test_odd_columns_are_left_out_with_a_remark_or_taken_as_what_they_are(tmp_path: Path) -> None:
    odd = people(
        constant=7,
        nothing=math.nan,
        name=[f"person {i}" for i in range(PEOPLE)],
        born=pd.date_range("1990-01-01", periods=PEOPLE, freq="37D"),
        member=[True, False, None] * 20,
        odds=[np.inf if i == 3 else float(i % 7) for i in range(PEOPLE)],
    )
    made = task(written(odd, tmp_path / "odd.parquet"), target="came")
    remark, infinite = made.remarks
    for name in ("constant (always the same)", "nothing (no values)", "name (text with"):
        assert name in remark
    assert "born" not in remark
    assert infinite.startswith("task.path: odds (1 infinite) count as missing.")
    assert torch.isfinite(rows(made)[0]).all()


def test_rows_without_a_target_are_left_out_and_said_once(program: Program, tmp_path: Path) -> None:
    table = people()
    table.loc[:4, "came"] = None
    path = written(table, tmp_path / "gaps.csv")
    done = program("task=tabular", f"task.path={path}", "task.target=came", "train.batch_size=8", "train.duration=2")
    assert done.code == 0, done.err
    assert done.err.count("task.target: 5 of 60 rows have no 'came' and are left out.") == 1


def test_category_that_was_not_in_training_is_no_error(tmp_path: Path) -> None:
    made = task(written(people(), tmp_path / "people.csv"), target="came", max_categories=2)
    assert rows(made)[0].shape[1] == 4, "the rare towns share a column"


def numbers(**columns: Any) -> pd.DataFrame:
    """Thirty rows with a column to learn from and a target that varies."""
    count = np.arange(30)
    return pd.DataFrame({"a": count**2 % 7, "y": count + 0.5, **columns})


def test_numbers_that_float32_cannot_hold_are_missing_ones_and_said_so(tmp_path: Path) -> None:
    odd = {"all": np.arange(1, 31) * 1e39, "some": [math.inf, -math.inf, 1e300, *range(27)]}
    made = task(written(numbers(**odd), tmp_path / "odd.csv"), target="y")
    assert made.remarks == [
        "task.drop: all (30 beyond float32) left out. Name them in task.drop to agree.",
        "task.path: some (2 infinite and 1 beyond float32) count as missing. Mend the file, or give them in another "
        "unit.",
    ]
    assert torch.isfinite(rows(made)[0]).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([math.inf, 1e300, *range(28)], "task.target: must hold finite numbers that float32 holds, got 'y' with 1 infinite and 1 beyond float32."),
        (np.arange(30) * 1e30, "task.target: must spread by at least 1e-15 and lie within 1e+15, as errors are squared in float32, got 'y' with a standard deviation of"),
        (np.arange(30) * 1e-30, "task.target: must spread by at least 1e-15 and lie within 1e+15, as errors are squared in float32, got 'y' with a standard deviation of"),
        ([5.5 if i in (2, 28, 13, 10, 26, 24) else 5.25 for i in range(30)], "task.target: must vary in the rows that train, got 'y', there always 5.25. Set another task.val_fraction, or choose another column."),
    ],
    ids=["infinite", "huge", "tiny", "constant where it trains"],
)  # fmt: skip
def test_target_that_float32_cannot_learn_is_refused(refuse: Refuse, tmp_path: Path, target: Any, message: str) -> None:
    path = written(numbers(y=target), tmp_path / "t.csv")
    refusal = refuse("task=tabular", f"task.path={path}", "task.target=y", "task.kind=regression")
    assert refusal.code == 2
    assert refusal.err.splitlines()[1].startswith(f"  {message}"), refusal.err


MISTAKES: list[tuple[str, bytes | None, list[str], str]] = [
    ("data.csv", None, [], "task.path: must be a file that is there, got '{path}'."),
    ("data.csv", b"", [], "task.path: must not be empty, got '{path}'. Give a table with a header and rows."),
    ("data.csv", b"a,b\n", [], "task.path: must have rows below its header, got '{path}'."),
    ("data.csv", b"\x89PNG\r\n\x1a\n\x00\x00\xff", [], "task.path: must be a table"),
    ("data.parquet", b"a,b\n1,2\n", [], "task.path: must be a table that can be read, got '{path}'"),
    ("data.xlsx", b"a,b\n1,2\n", [], "task.path: must end in .csv, .tsv, .parquet, got '{path}'."),
    ("data.csv", b"a,a\n1,2\n", [], "task.path: must have columns with different names, got a more than once."),
    ("data.csv", b"a,b\n1,2\n", ["task.target=null"], "task.target: must be the column to predict (columns: a, b), got null."),
    ("data.csv", b"a,y\n1,2\n", ["task.target=Y"], "task.target: must be a column of the table, got 'Y'. Did you mean y?"),
    ("data.csv", b"aged,b\n1,2\n", ["task.target=age"], "task.target: must be a column of the table, got 'age'. Did you mean aged?"),
    ("data.csv", b"a,y\n1,x\n2,x\n3,x\n4,x\n", [], "task.target: must have at least two classes, got 'y', always x."),
    ("data.csv", b"a,y\n1,x\n2,x\n3,z\n4,x\n", [], "task.target: must have at least two rows of every class, got one of z."),
    ("data.csv", b"a,y\n1,x\n2,z\n3,x\n4,z\n", ["task.kind=regression"], "task.kind: must be classification for the text in column 'y'"),
    ("data.csv", b"a,y\n1,0.5\n2,1.5\n", [], "task.val_fraction: must leave at least 2 rows in each split"),
    ("data.csv", b"a,y\n1,x\n2,z\n3,x\n4,z\n", ["task.drop=[a]"], "task.drop: must leave a column to learn from"),
    ("data.csv", b"a,y\n1,x\n2,z\n3,x\n4,z\n", ["task.drop=[b]"], "task.drop: must be a column of the table, got 'b'"),
    ("data.csv", b"a,y\n1,x\n2,z\n3,x\n4,z\n", ["task.val_fraction=1.5"], "task.val_fraction: must be a finite number > 0 and < 1, got 1.5"),
    ("data.csv", b"a,y\n7,x\n7,z\n7,x\n7,z\n", ["task.val_fraction=0.5"], "task.path: must have a column to learn from besides the target, got a (always the same)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "overrides", "message"), MISTAKES, ids=[m[3][:60] for m in MISTAKES])
def test_table_that_cannot_be_used_is_refused(
    refuse_row: Refuse, tmp_path: Path, name: str, content: bytes | None, overrides: list[str], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    refusal = refuse_row(
        "task=tabular", f"task.path={path}", "task.target=y", "train.batch_size=1", "train.duration=1ep", *overrides
    )
    assert refusal.code == 2
    assert refusal.err.splitlines()[1].startswith("  " + message.format(path=path)), refusal.err
    assert "Traceback" not in refusal.err
    assert sorted(refusal.left_behind) == before


def test_nearest_file_is_named(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "customers.csv").write_text("a,b\n1,2\n")
    refusal = refuse("task=tabular", f"task.path={tmp_path}/customer.csv", "task.target=b")
    assert f"Did you mean task.path={tmp_path}/customers.csv?" in refusal.err
    refusal = refuse("task=tabular", f"task.path={tmp_path}", "task.target=b")
    assert "got the directory" in refusal.err
    assert "Tables there: customers.csv" in refusal.err


def test_mistakes_of_the_table_come_together_with_others(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,x\n2,z\n3,x\n4,z\n")
    refusal = refuse("task=tabular", f"task.path={tmp_path}/t.csv", "task.target=z", "task.drop=[q]", "optimizer.lr=-1")
    keys = [line.strip().split(":")[0] for line in refusal.err.splitlines()[1:]]
    assert keys == ["optimizer.lr", "task.drop", "task.target"]


def test_refusal_holds_every_problem_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,x\n2,z\n3,w\n4,z\n")
    with pytest.raises(ConfigError) as refused:
        task(str(tmp_path / "t.csv"), target="y", drop=["q"])
    assert {problem.key for problem in refused.value.problems} == {"task.drop", "task.target", "task.val_fraction"}
