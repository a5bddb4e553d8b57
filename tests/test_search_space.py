"""Search spaces: Hydra's words for what a key may be, read into dimensions, and everything wrong named at once."""

import pytest

from runner.errors import ConfigError
from runner.search.dimension import Dimension
from runner.search.space import corners, grid_of, read_space, space_of


def dimension(text: str) -> Dimension:
    [found] = read_space([text]).values()
    return found


@pytest.mark.parametrize(
    ("text", "kind", "low", "high", "step", "is_log"),
    [
        ("optimizer.lr=interval(1e-5,1)", "float", 1e-5, 1, None, True),
        ("optimizer.weight_decay=interval(1e-4,1e-1)", "float", 1e-4, 0.1, None, True),
        ("optimizer.eps=interval(1e-12,1e-6)", "float", 1e-12, 1e-6, None, True),
        ("optimizer.lr=tag(linear,interval(0,1))", "float", 0, 1, None, False),
        ("optimizer.momentum=interval(0,0.99)", "float", 0, 0.99, None, False),
        ("optimizer.momentum=tag(log,interval(0.1,0.99))", "float", 0.1, 0.99, None, True),
        ("train.batch_size=tag(int,log,interval(16,512))", "int", 16, 512, None, True),
        ("train.batch_size=int(interval(16,512))", "int", 16, 512, None, False),
        ("seed=range(1,4)", "int", 1, 3, 1, False),
        ("seed=range(4,1,-1)", "int", 2, 4, 1, False),
        ("a=range(0,1,0.25)", "float", 0, 0.75, 0.25, False),
        ("a=float(range(1,3))", "float", 1, 2, 1, False),
    ],
)
def test_interval_or_range_is_read(
    text: str, kind: str, low: float, high: float, step: float | None, is_log: bool
) -> None:
    found = dimension(text)
    assert (found.kind, found.low, found.high, found.step, found.is_log) == (kind, low, high, step, is_log)
    assert found.distribution.single() is False


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("optimizer=choice(sgd,adamw)", ("sgd", "adamw")),
        ("optimizer=sgd,adamw,sgd", ("sgd", "adamw")),
        ("a=[1,2],[3]", ("[1,2]", "[3]")),
        ("a='x y',z", ("'x y'", "z")),
        ("a=shuffle(range(1,3))", ("1", "2")),
        ("+a=1,2", ("1", "2")),
    ],
)
def test_list_is_a_choice_of_texts_of_the_command_line(text: str, choices: tuple[str, ...]) -> None:
    found = dimension(text)
    assert found.kind == "choice"
    assert sorted(found.choices) == sorted(choices)
    assert found.key == text.lstrip("+").partition("=")[0]
    assert found.prefix == ("+" if text.startswith("+") else "")


def test_everything_wrong_with_a_space_is_told_at_once() -> None:
    given = [
        "a.lr=interval(1,1e-5)",
        "b.lr=interval(0,1)",
        "c=interval(nan,1)",
        "d=interval(1,1)",
        "e=choice(x)",
        "f=range(1,2)",
        "g=5",
        "h=interval(1,x)",
        "i=tag(logarithmic,interval(1,2))",
        "j=tag(int,interval(1,2.5))",
        "k=1,nan",
        "l=tag(log,linear,interval(1,2))",
        "m=tag(log,range(1,9,2))",
    ]
    with pytest.raises(ConfigError) as error:
        read_space(given)
    assert str(error.value).splitlines() == [
        "13 problems in the configuration:",
        "  a.lr: must have its low bound below its high one, got interval(1,1e-5). Write interval(1e-05,1).",
        "  b.lr: must have bounds > 0 on a log scale, got interval(0,1). "
        "Raise the low bound, or write tag(linear,interval(0,1)).",
        "  c: must have finite bounds, got interval(nan,1). Write it as interval(1e-5,1).",
        "  d: must have its low bound below its high one, got interval(1,1). Widen it.",
        "  e: must have at least two values, got choice(x). "
        "Give more, or leave the key out of what varies: one value is given without choice().",
        "  f: must have at least two values, its end is left out, got range(1,2). Widen it.",
        "  g: must be what may vary, such as interval(1e-5,1), choice(a,b) or range(1,4), got 5. Give g a range.",
        "  h: must be interval(1e-5,1), choice(a,b), range(1,4) or a list, got interval(1,x). "
        "Write it as interval(1e-5,1).",
        "  i: must have tags of log or linear, int or float, got tag(logarithmic,interval(1,2)). "
        "Write it as tag(log,interval(1e-5,1)).",
        "  j: must have whole numbers for bounds, got tag(int,interval(1,2.5)). Write tag(int,interval(1,2)).",
        "  k: must hold finite numbers, got 1,nan. Leave nan out.",
        "  l: must have tags of log or linear, int or float, got tag(log,linear,interval(1,2)). "
        "Write it as tag(log,interval(1e-5,1)).",
        "  m: must be linear, for its steps are equal, got tag(log,range(1,9,2)). "
        "Leave the tag out, or list the values.",
    ]


def test_values_are_written_as_on_the_command_line_and_stay_inside() -> None:
    rate = dimension("optimizer.lr=interval(1e-5,0.123456789)")
    assert rate.written(0.0031622776601683794) == "0.00316228"
    assert rate.written(0.123456789) == "0.123456789", "rounded it would lie outside"
    assert dimension("a=range(0,1,0.1)").written(0.1 + 0.2) == "0.3"
    assert dimension("seed=range(1,9)").written(3.0) == "3"
    assert dimension("o=sgd,adamw").written("sgd") == "sgd"


@pytest.mark.parametrize(
    ("text", "given", "value"),
    [
        ("optimizer.lr=interval(1e-5,1)", "0.01", 0.01),
        ("optimizer.lr=interval(1e-5,1)", "2", None),
        ("seed=range(1,4)", "3", 3),
        ("seed=range(1,4)", "2.5", None),
        ("o=sgd,adamw", "adamw", "adamw"),
        ("o=sgd,adamw", "lion", None),
    ],
)
def test_value_of_a_record_is_read_back_or_lies_outside(text: str, given: str, value: object) -> None:
    assert dimension(text).read(given) == value


def test_corners_are_the_base_and_every_other_end() -> None:
    space = read_space(["optimizer=sgd,adamw,lion", "optimizer.lr=interval(1e-5,1)"])
    assert corners(space) == [
        {"optimizer": "sgd", "optimizer.lr": "1e-05"},
        {"optimizer": "adamw", "optimizer.lr": "1e-05"},
        {"optimizer": "lion", "optimizer.lr": "1e-05"},
        {"optimizer": "sgd", "optimizer.lr": "0.367886"},
        {"optimizer": "sgd", "optimizer.lr": "1"},
    ]


def test_grid_has_all_values_and_refuses_what_has_no_list() -> None:
    counted = read_space(["o=sgd,adamw", "seed=range(0,3)", "a=range(0,1,0.5)"])
    assert grid_of(counted, "sampler") == {"o": ["sgd", "adamw"], "seed": [0, 1, 2], "a": [0.0, 0.5]}
    with pytest.raises(ConfigError, match="b: must be a list or a range for sampler=grid, got interval"):
        grid_of(read_space(["b=interval(0,1)"]), "sampler")


def test_space_of_a_page_is_read_like_a_command_line() -> None:
    given = {"optimizer.lr": "interval(1e-5,1)", "optimizer": ["sgd", "adamw"], "seed": "range(0,3)"}
    assert list(read_space(space_of(given))) == ["optimizer.lr", "optimizer", "seed"]
