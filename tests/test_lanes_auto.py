"""Whether runs are made in lanes is measured."""

from typing import Any, ClassVar

import torch

from runner.job import checked
from runner.tasks.quadratic import Quadratic
from runner.trials.choose import choose
from tests.pages import composed


class Crowded(Quadratic):
    """Has room for two of its kind."""

    there: ClassVar[list[object]] = []

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        if self not in self.there:
            self.there.append(self)
        if len(self.there) > 2:  # the check and the run alone
            raise torch.OutOfMemoryError("no room")
        return super().batch(step, split, part)


def test_auto_runs_one_after_another_what_finds_no_room_in_lanes() -> None:
    words = ("task=quadratic", "task._target_=tests.test_lanes_auto.Crowded")
    choice = choose([checked(composed(*words, f"seed={seed}")) for seed in range(3)], width=32)
    assert not choice.is_lanes
    assert choice.why.startswith("one after another, as a trial in lanes failed: OutOfMemoryError: no room")
