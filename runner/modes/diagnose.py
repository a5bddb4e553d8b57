"""mode=diagnose: what happened in a recorded curve, where, how sure that is, and what to try."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any

from runner.config import Config, Invocation
from runner.curves import number
from runner.diagnosis.curve import Known
from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.verdict import IN_WORDS, Diagnosis, to_json
from runner.errors import RunnerError
from runner.known import TELLING, known_of_overrides
from runner.readers.read import Reading, read_curve
from runner.readers.roles import ROLES, Role
from runner.records import spell_non_finite
from runner.report.diagnosis_figure import diagnosis_figure
from runner.report.diagnosis_panel import show_diagnosis
from runner.tracking.directory import output_directory, write_whole

JSON, PICTURE = "diagnosis.json", "diagnosis.png"
_ASIDE = ("mode", "source", "tracking", "name", "quiet", "tags", "notify")  # not about the run
FOREIGN = "curves"  # folder under runs/ for what is no run of ours


def run(config: Config, invocation: Invocation, *, directory: str | None = None) -> None:
    """Read the curve of `source`, print its diagnosis, and write it as JSON and as a picture.

    What was typed on the command line (`optimizer=adamw optimizer.lr=3e-2`) is taken for what the run used.

    Args:
        config: checked.
        invocation: how the program was called.
        directory: where the files go; None for a new one.

    Raises:
        ConfigError: there is no curve to be read.
        RunnerError: the files cannot be written.
    """
    for key in _telling_nothing(invocation):
        text = f"tells a diagnosis nothing. Of the run it understands {', '.join(TELLING)}"
        print(f"warning {key}: {text}.", file=sys.stderr)
    reading = _read(config, invocation)
    diagnosis = diagnose(reading.curve)
    # a multirun has a directory for each of its jobs
    given = directory if invocation.sweep is None else None
    experiment = config.name or _experiment(reading) or FOREIGN
    place = output_directory(given, key="mode.directory", experiment=f"{experiment}/diagnoses")
    if not config.quiet:
        for line in _what_was_read(reading):
            print(line)
        show_diagnosis(diagnosis, title=reading.name, command=reading.command)
    try:
        diagnosis_figure(reading.curve, diagnosis, place / PICTURE, title=_title(reading))
        write_whole(place / JSON, json.dumps(_as_json(reading, diagnosis), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RunnerError(f"{place}: cannot be written ({error.strerror}). Give another mode.directory.") from None
    if not config.quiet:
        print(f"{place / PICTURE}\n{place / JSON}")
    print(place, flush=True)


def _read(config: Config, invocation: Invocation) -> Reading:
    """Read the curve, with what the command line tells about its run."""
    source = config.source
    what = source.values if source.values is not None else str(source.path)
    columns: dict[Role, str] = {role: name for role in ROLES if (name := getattr(source.columns, role)) is not None}
    reading = read_curve(what, columns, uri=config.tracking.uri)
    told = known_of_overrides(invocation.tree, _typed(invocation), choices=invocation.choices)
    known = reading.curve.known
    told["options"] = {**known.options, **told.get("options", {})}
    return replace(reading, curve=replace(reading.curve, known=replace(known, **told)))


def _typed(invocation: Invocation) -> list[str]:
    """Return the keys that were typed."""
    return [text.lstrip("+~").partition("=")[0] for text in invocation.overrides]


def _telling_nothing(invocation: Invocation) -> list[str]:
    """Return the keys that were typed about the run, and of which a diagnosis makes nothing."""
    return [key for key in _typed(invocation) if key.partition(".")[0] not in _ASIDE and key not in TELLING]


def _what_was_read(reading: Reading) -> list[str]:
    """Say what was read, and what of it was decided on the way."""
    curve = reading.curve
    first, last = curve.steps[0], curve.steps[-1]
    columns = ", ".join(f"{role} from {name!r}" for role, name in reading.columns.items())
    count = len(curve.evals)
    evals = f", {count:,} validation loss{'es' if count > 1 else ''}" if count else ""
    head = f"{reading.name}: {reading.format}, {reading.rows:,} losses, steps {first:,} to {last:,}{evals}"
    return [head, *([columns] if columns else []), *(f"note {text}" for text in reading.notes)]


def _title(reading: Reading) -> str:
    return f"{reading.name}: {number(reading.rows, 9) if reading.rows < 1000 else f'{reading.rows:,}'} losses"


def _experiment(reading: Reading) -> str | None:
    """Return the folder under runs/ of a run of ours."""
    return reading.directory.resolve().parent.name if reading.directory is not None else None


def _as_json(reading: Reading, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return everything that was found, and what it was found in."""
    curve = reading.curve
    source = {
        "name": reading.name,
        "format": reading.format,
        "columns": dict(reading.columns),
        "losses": reading.rows,
        "steps": [curve.steps[0], curve.steps[-1]],
        "notes": list(reading.notes),
        "known": _told(curve.known),
    }
    found: dict[str, Any] = spell_non_finite(
        {"verdict": IN_WORDS[diagnosis.cause], **to_json(diagnosis), "source": source}
    )
    return found


def _told(known: Known) -> dict[str, Any]:
    """Return what is known beside the curve."""
    plain = asdict(Known())
    return {name: value for name, value in asdict(known).items() if value != plain[name]}
