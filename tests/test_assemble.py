"""Parts of a page that have parts of their own: checked and made at any depth, each in the form that is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from runner.assemble import make
from runner.checks.nodes import check_node
from runner.durations import Clock, Steps
from runner.errors import ConfigError
from runner.nodes import Node
from runner.wording import Findings

HERE = "tests.test_assemble"


@dataclass
class Whole:
    """Takes one part in each form."""

    value: nn.Module
    factory: Callable[[], nn.Module]
    function: Callable[[Tensor, Tensor], Tensor] | None = None
    many: Mapping[str, Callable[[], nn.Module]] | None = None


def timed(*, after: Steps, floor: float = 0.0) -> tuple[int, float]:
    return after, floor


def holds(inner: Any) -> Any:
    return inner


LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
SEQUENTIAL = {"_target_": "torch.nn.Sequential", "_args_": [LINEAR, {"_target_": "torch.nn.ReLU"}]}


def whole(**parts: Any) -> Node:
    return Node.model_validate({"_target_": f"{HERE}.Whole", "value": LINEAR, "factory": SEQUENTIAL, **parts})


def problems(node: Node) -> list[str]:
    found = Findings()
    check_node("task", node, found)
    return sorted(map(str, found.problems))


def test_a_factory_makes_its_part_and_the_parts_inside_anew_at_every_call() -> None:
    made = make("task", whole(), Clock(1), {})
    assert isinstance(made.value, nn.Linear)
    first, second = made.factory(), made.factory()
    assert [type(layer) for layer in first] == [nn.Linear, nn.ReLU]
    assert first[0] is not second[0]
    assert not first[0].weight.equal(second[0].weight)


def test_a_function_is_handed_over_with_its_arguments_bound_and_a_class_is_called() -> None:
    smooth = {"_target_": "torch.nn.functional.cross_entropy", "label_smoothing": 0.1}
    assert make("task", whole(function=smooth), Clock(1), {}).function.keywords == {"label_smoothing": 0.1}
    made = make("task", whole(function={"_target_": "torch.nn.CrossEntropyLoss"}), Clock(1), {})
    assert isinstance(made.function, nn.CrossEntropyLoss)


def test_factories_in_a_mapping_are_factories_too() -> None:
    made = make("task", whole(many={"a": LINEAR}), Clock(1), {})
    assert isinstance(made.many["a"](), nn.Linear)


def test_durations_of_a_part_arrive_in_steps() -> None:
    node = {"_target_": f"{HERE}.holds", "inner": {"_target_": f"{HERE}.timed", "after": "10%"}}
    assert make("schedule", Node.model_validate(node), Clock(1, total_steps=50), {}) == (5, 0.0)


def test_a_part_that_refuses_is_named_by_its_own_key() -> None:
    bad = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2}
    node = whole(value={"_target_": "torch.nn.Sequential", "_args_": [bad]})
    with pytest.raises(ConfigError, match=r"task\.value\._args_\.0: must be accepted by torch\.nn\.Conv2d"):
        make("task", node, Clock(1), {})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"value": {**LINEAR, "in_featurs": 3}}, "task.value.in_featurs: unknown key, did you mean task.value.in_fea"),
        ({"factory": {"_target_": "torch.nn.Linear", "in_features": 3}}, "task.factory.out_features: must be given"),
        ({"factory": {**LINEAR, "in_features": "x"}}, "task.factory.in_features: must be an integer, got 'x'"),
        ({"factory": {"_target_": "torch.nn.Linera"}}, "task.factory._target_: must name something that exists"),
        ({"factory": {"_target_": None}}, "task.factory._target_: must be text, got null"),
        ({"factory": None}, "task.factory: must be a section with a _target_, got null"),
        (
            {"many": {"a": 3}},
            "task.many.a: must be a section with a _target_, got 3. Set task.many.a._target_=my_module.A",
        ),
        (
            {"many": {"a": {**LINEAR, "bias": "maybe"}}},
            "task.many.a.bias: must be true or false, got 'maybe'",
        ),
        (
            {"value": {"_target_": "torch.nn.Sequential", "_args_": [{**LINEAR, "bais": True}]}},
            "task.value._args_.0.bais: unknown key, did you mean task.value._args_.0.bias",
        ),
    ],
)
def test_mistake_inside_a_part_is_found_before_anything_is_made(parts: dict[str, Any], message: str) -> None:
    assert problems(whole()) == []
    found = problems(whole(**parts))
    assert len(found) == 1
    assert found[0].startswith(message)


def test_a_function_may_leave_arguments_for_later_and_a_class_may_not() -> None:
    assert problems(whole(function={"_target_": "torch.nn.functional.cross_entropy"})) == []
    assert problems(whole(function={"_target_": "torch.nn.BCEWithLogitsLoss"})) == []
    assert problems(whole(function=LINEAR | {"in_features": 3})) == []
    assert len(problems(whole(function={"_target_": "torch.nn.Linear"}))) == 2
