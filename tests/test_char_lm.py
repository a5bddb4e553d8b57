"""The character model: its windows, its transformer, its texts, and how it answers to the learning rate."""

import json
import math
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any, cast

import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.tasks.char_lm import CharLM
from runner.tasks.transformer import Transformer
from tests.conftest import Done, Program, Refusal
from tests.pages import composed

# the setting of the measurements: SCIENCE of small models needs small runs
TOY = (
    "task=char_lm", "task.context=32", "task.width=64", "task.depth=2", "train.batch_size=16", "train.duration=300",
    "schedule=linear", "optimizer.weight_decay=0", "train.eval_every=null", "train.checkpoint_every=null",
)  # fmt: skip


def task(path: Path, text: str, **options: Any) -> CharLM:
    path = path / "text.txt"
    path.write_bytes(text.encode())
    return CharLM(text=str(path), batch_size=4, seed=0, **options)


def transformer(**options: Any) -> Transformer:
    torch.manual_seed(0)
    shape = {"context": 8, "width": 16, "depth": 2, "heads": 4, "dropout": 0.0, "norm": "pre", "qk_norm": False}
    return Transformer(11, **{**shape, **options})


def result_of(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    return cast("dict[str, Any]", json.loads((done.run / "result.json").read_text()))


def steps_of(done: Done, field: str) -> list[float]:
    lines = map(json.loads, (done.run / "records.jsonl").read_text().splitlines())
    return [line[field] for line in lines if line["kind"] == "step"]


def test_windows_of_a_split_share_one_character_and_leave_out_the_rest(tmp_path: Path) -> None:
    found = task(tmp_path, "abcdefghij" * 10, context=8)
    assert found.examples == {"train": 11, "val": 1}
    batches = [found.batch(step, "train") for step in range(3)]
    rows = sorted(row.tolist() for batch in batches if batch is not None for row in batch[0])
    assert rows == sorted([(start + i) % 10 for i in range(9)] for start in range(0, 88, 8))
    val = found.batch(0, "val")
    assert val is not None
    assert val[0].tolist() == [list(range(9))]


def test_prior_entropy_is_that_of_the_single_characters(tmp_path: Path) -> None:
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert task(tmp_path, "aaab" * 100, context=4).prior_entropy == pytest.approx(expected, abs=1e-9)


def test_loss_weighs_characters_and_counts_windows(tmp_path: Path) -> None:
    found = task(tmp_path, "abcdefghij" * 10, context=8, width=16)
    batch = found.batch(0, "train")
    assert batch is not None
    model = found.model()
    nn.init.zeros_(model.head.weight)  # type: ignore[union-attr, arg-type]
    weight = found.weight(batch)
    loss = found.loss(model, batch, weight)
    assert (weight, loss.examples) == (32, 4)
    assert loss.total.item() / weight == pytest.approx(math.log(10))


def test_texts_of_many_characters_and_of_one_are_encoded(tmp_path: Path) -> None:
    many = task(tmp_path, "".join(chr(0x4E00 + i) for i in range(1000)), context=4)
    assert many.prior_entropy == pytest.approx(math.log(896))  # the targets of 224 windows, each once
    assert task(tmp_path, "a" * 100, context=4).prior_entropy == pytest.approx(0)


def test_byte_order_mark_and_windows_line_ends_are_no_characters_of_the_text(tmp_path: Path) -> None:
    plain = task(tmp_path, "one\ntwo\n" * 20, context=4)
    marked = task(tmp_path, "\ufeff" + "one\r\ntwo\r\n" * 20, context=4)
    assert marked.digest == plain.digest


@pytest.mark.parametrize(("norm", "qk_norm"), list(product(["pre", "post"], [False, True])))
def test_logits_depend_on_present_and_past_alone(norm: str, qk_norm: bool) -> None:
    model = transformer(norm=norm, qk_norm=qk_norm).eval()
    tokens = torch.randint(11, (3, 8))
    changed = tokens.clone()
    changed[:, 5] = (tokens[:, 5] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 8, 11)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert all((before[:, t] - after[:, t]).abs().max() > 1e-4 for t in (5, 6, 7))


def test_parameters_are_those_of_gpt_2() -> None:
    vocabulary, context, width, depth = 11, 8, 16, 2
    blocks = depth * (12 * width**2 + 13 * width)
    count = sum(parameter.numel() for parameter in transformer().parameters())
    assert count == vocabulary * width + context * width + blocks + 2 * width + vocabulary * width


def test_weights_start_as_the_docstring_says() -> None:
    model = transformer(width=256, depth=3)
    std = math.sqrt(2 / (5 * 256))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scale = 1 / math.sqrt(6) if name.endswith(("mix", "shrink")) else 1.0
            assert module.weight.std().item() == pytest.approx(std * scale, rel=0.05), name
            assert module.bias is None or not module.bias.any(), name


def test_qk_norm_takes_the_size_of_queries_and_keys_out_of_attention() -> None:
    tokens = torch.randint(11, (3, 8))
    for qk_norm in (True, False):
        model = transformer(qk_norm=qk_norm).eval()
        before = model(tokens)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("project.weight"):
                    weight[:32] *= 100  # the rows of queries and keys
        change = (model(tokens) - before).abs().max().item()
        assert change < 0.01 if qk_norm else change > 0.05


def test_dropout_acts_in_training_only() -> None:
    model, tokens = transformer(dropout=0.5), torch.randint(11, (3, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_file_of_text_trains_and_tells_its_entropy_and_bits(program: Program, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("Die Würde des Menschen ist unantastbar. " * 200, encoding="utf-8")
    small = ("task.text=poem.txt", "task.context=16", "task.width=32", "task.depth=1", "train.duration=100")
    result = result_of(program("task=char_lm", *small, "optimizer.lr=1e-2"))
    final = result["final"]
    assert final["val/loss"] < 0.5 < 2.5 < result["dataset"]["prior_entropy"]
    assert final["val/bits_per_char"] == pytest.approx(final["val/loss"] / math.log(2))
    assert result["dataset"]["examples"] == {"train": 449, "val": 49}


def test_task_brings_adamw_and_the_command_line_wins() -> None:
    for words, target, lr in (([], "AdamW", 1e-3), (["optimizer=sgd"], "SGD", 0.1)):
        for overrides in (["task=char_lm", *words], [*words, "task=char_lm"]):
            optimizer = composed(*overrides)["optimizer"]
            assert (optimizer["_target_"], optimizer["lr"]) == (f"torch.optim.{target}", lr)


MEND = "Give the path of another, or null for Python's help topics."
MISTAKES = [
    ("task.text=nothing.txt", f"task.text: must be a text file, got 'nothing.txt' (no such file). {MEND}"),
    ("task.text=/dev", f"task.text: must be a text file, got '/dev' (a directory). {MEND}"),
    ("task.text=/dev/null", f"task.text: must be a text file, got '/dev/null' (not a file). {MEND}"),
    (
        "task.context=50000",
        "task.context: must be at most 46496, as a tenth of the 464970 characters validates, got 50000. "
        "Set task.context=46496 or less, or a longer task.text.",
    ),
    ("task.heads=5", "task.heads: must divide task.width=96, got 5. Set task.heads=1 or task.width=100."),
    ("task.norm=mid", "task.norm: must be one of pre, post, got 'mid'. Set task.norm=pre."),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistake_is_refused_before_training(refuse: Callable[..., Refusal], override: str, message: str) -> None:
    if "464970" in message and sys.version_info[:3] != (3, 11, 7):
        message = message.partition("46496")[0]  # the topics differ between versions
    refusal = refuse("task=char_lm", override)
    assert refusal.code == 2
    assert refusal.err.startswith(f"1 problem in the configuration:\n  {message}")
    assert refusal.left_behind == []


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "must have at least 20 characters, got 'file' with 0"),
        (b"too short", "must have at least 20 characters, got 'file' with 9"),
        (b"caf\xe9 " * 20, "must be a text file in UTF-8, got 'file' (byte 3 does not belong there)"),
        (b"\x7fELF\x02\x01\x01\0" * 9, "must be a text file, got 'file' (a NUL byte at character 7)"),
    ],
    ids=["empty", "short", "latin-1", "binary"],
)
def test_file_that_is_no_text_is_refused(
    refuse: Callable[..., Refusal], tmp_path: Path, content: bytes, rule: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    refusal = refuse("task=char_lm", "task.text=file", "task.heads=7")
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [
        "  task.heads: must divide task.width=96, got 7. Set task.heads=1 or task.width=98.",
        f"  task.text: {rule}. {MEND}",
    ]
    assert refusal.left_behind == [tmp_path / "file"]


def test_text_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.context: must be at most 9, as a tenth of the 100 characters"):
        task(tmp_path, "abcdefghij" * 10, context=10)


def test_python_without_its_help_topics_is_told_what_to_do(
    refuse: Callable[..., Refusal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    refusal = refuse("task=char_lm", "seed=12345")  # a seed of its own: tasks are kept
    assert refusal.code == 2
    assert "task: must find Python's pydoc_data.topics. Give a text file: task.text=<path>." in refusal.err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_too_high_for_adam_is_silent_and_warmup_helps(program: Program, seed: int) -> None:
    """Ten times the best learning rate costs 0.4 to 0.6 nats and stops no run; a warmup wins most of it back."""
    best = result_of(program(*TOY, f"seed={seed}", "warmup=none", "optimizer.lr=3e-3"))
    high = result_of(program(*TOY, f"seed={seed}", "warmup=none", "optimizer.lr=3e-2"))
    warm = result_of(program(*TOY, f"seed={seed}", "warmup.duration=75", "optimizer.lr=3e-2"))
    assert 1.9 < best["final"]["val/loss"] < 2.2
    assert high["final"]["val/loss"] > best["final"]["val/loss"] + 0.25
    assert high["status"] == "finished"
    assert warm["final"]["val/loss"] < high["final"]["val/loss"] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_post_norm_gets_stuck_at_the_entropy_of_single_characters(program: Program, seed: int) -> None:
    deep = (*TOY, f"seed={seed}", "task.depth=4", "task.norm=post", "warmup=none")
    stuck, sound = program(*deep, "optimizer.lr=3e-2"), program(*deep, "optimizer.lr=3e-3")
    prior = result_of(stuck)["dataset"]["prior_entropy"]
    for step in (75, 100, 150):
        last = slice(step - 20, step)
        assert mean(steps_of(stuck, "loss")[last]) == pytest.approx(prior, abs=0.15)
        assert mean(steps_of(sound, "loss")[last]) < prior - 0.3
    assert result_of(stuck)["final"]["val/loss"] == pytest.approx(prior, abs=0.1)
    assert result_of(sound)["final"]["val/loss"] < 2.2
    assert median(steps_of(stuck, "grad_norm")[-50:]) < median(steps_of(sound, "grad_norm")[-50:])
