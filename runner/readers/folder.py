"""What a directory holds that can be read as a curve."""

from __future__ import annotations

from pathlib import Path

from runner.readers.problems import refused
from runner.readers.roles import is_held_out
from runner.tracking.directory import RECORDS, SWEEP

EVENTS = "*tfevents*"
_NAMES = (RECORDS, "trainer_state.json", "metrics.csv")


def find_in_folder(directory: Path) -> tuple[Path, list[Path]]:
    """Return the file to read of a directory; of TensorBoard, the further files of the same run too.

    Our own records come first, then trainer_state.json (that of the newest checkpoint), event files, and the
    metrics.csv of Lightning, in the directory or one or two folders below it.

    Raises:
        ConfigError: there is none, or there are several runs.
    """
    given = f"got {str(directory)!r}"
    if (directory / SWEEP).is_file():
        raise refused(f"must be one run, {given}, which is that of a sweep", "Give one of its runs, see its sweep.json")
    if (directory / RECORDS).is_file():
        return directory / RECORDS, []
    if (directory / "trainer_state.json").is_file():
        return directory / "trainer_state.json", []
    checkpoints = sorted(directory.glob("checkpoint-*/trainer_state.json"), key=_number)
    if checkpoints:
        return checkpoints[-1], []
    for pattern in (RECORDS, EVENTS, "metrics.csv"):
        found = sorted({path for depth in ("", "*/", "*/*/") for path in directory.glob(depth + pattern)})
        folders = sorted({path.parent for path in found})
        training = [folder for folder in folders if not is_held_out(folder.name)]
        if pattern == EVENTS and len(training) == 1 and len({folder.parent for folder in folders}) == 1:
            found.sort(key=lambda path: path.parent != training[0])  # one run that has its splits beside each other
        elif len(folders) > 1:
            names = ", ".join(str(folder) for folder in folders[:5]) + (" ..." if len(folders) > 5 else "")
            fix = f"Set source={(training or folders)[-1]}"
            raise refused(f"must be one run, {given} with {len(folders)} ({names})", fix)
        if found:
            return found[0], found[1:]
    inside = sorted(path.name for path in directory.iterdir())
    there = ", ".join(inside[:8]) + (" ..." if len(inside) > 8 else "") or "nothing"
    rule = f"must be a directory with {', '.join(_NAMES)} or TensorBoard events, {given} with {there}"
    raise refused(rule, "Give a run directory or a file")


def _number(path: Path) -> int:
    digits = path.parent.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1
