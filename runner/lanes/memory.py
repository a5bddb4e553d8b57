"""Running out of memory: how that is known, and what to do about it."""

from __future__ import annotations

import gc
import re
import traceback

import torch

from runner.errors import Problem, TaskError
from runner.tasks.closing import without_exit
from runner.tasks.described import first_line

_WORDS = re.compile(r"out of memory|can't allocate memory|not enough memory|DefaultCPUAllocator|_ALLOC_FAILED", re.I)


class NoRoomError(TaskError):
    """Memory ran out.

    Args:
        text: first line of what told so.
        accumulate: micro-batches that a step is made of.
    """

    def __init__(self, text: str, accumulate: int) -> None:
        rule = f"must leave memory for a step of one run alone, got {text.removesuffix('.')}"
        fix = f"Set train.accumulate={2 * accumulate}, which is the same batch in smaller parts, or a smaller batch"
        super().__init__(Problem("train.batch_size", rule, f"{fix} or model"))


class CrowdedError(TaskError):
    """Memory ran out for what one of several lanes keeps.

    Args:
        text: first line of what told so.
        lanes: that there were.
    Attributes:
        room: how many to try.
    """

    def __init__(self, text: str, lanes: int) -> None:
        self.room = lanes // 2
        rule = f"must leave memory for what {lanes} runs keep, got {text.removesuffix('.')}"
        super().__init__(Problem("sweep.lanes", rule, f"Set sweep.lanes={self.room}"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it comes from, tells that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and _WORDS.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def told(error: Exception | SystemExit, accumulate: int) -> Exception:
    """Return what to tell of an error; where memory ran out, what the pass had made is let go with it."""
    if isinstance(error, SystemExit) or not is_out_of_memory(error):
        return without_exit(error)
    found = NoRoomError(first_line(error.__cause__ or error), accumulate)
    held: BaseException | None = error
    while held is not None:
        traceback.clear_frames(held.__traceback__)
        held = held.__cause__ or held.__context__
    return found


def crowded(error: Exception, lanes: int, accumulate: int) -> Exception:
    """Return what to tell of an error of one lane among others, outside of the pass."""
    if lanes == 1 or not is_out_of_memory(error):
        return told(error, accumulate)
    return CrowdedError(first_line(error.__cause__ or error), lanes)


def free_memory() -> None:
    """Free what trainings that have ended still hold, and what torch keeps on a GPU for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
