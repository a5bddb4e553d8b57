"""Rules for remedies: a ladder that ends and is heard, weights to go back to, and room for a probe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.config import Config
from runner.durations import Clock, to_steps
from runner.nodes import Node
from runner.remedies.branch_probe import LEAST_STEPS, BranchProbe
from runner.remedies.clip import Clip
from runner.remedies.ladder import Ladder
from runner.remedies.protocol import SNAPSHOTS
from runner.remedies.skip_update import SkipUpdate
from runner.remedies.stop import Stop
from runner.signatures import locate, parameters_of
from runner.wording import Findings, shown

MOST_TIMES = 1000  # that a remedy goes back
FIXED = "runner.train.clipping.Fixed"


def check_remedies(found: Findings, clock: Clock) -> None:
    """Check the remedies against the detectors and the length of the run.

    Args:
        found: takes the problems; its sections are read.
        clock: of the run.
    """
    total, keeps_snapshots = clock.total_steps or 0, False
    for name, node in found.sections.get("remedies", {}).items():
        for key, target, part in remedies_in(f"remedies.{name}", node):
            if any(problem.key == key or problem.key.startswith(f"{key}.") for problem in found.problems):
                continue
            keeps_snapshots = keeps_snapshots or SNAPSHOTS in getattr(target, "needs", ())
            if target is Ladder:
                _check_ladder(key, part, found, total)
            elif target is SkipUpdate:
                _check_looks(key, found)
            elif target is BranchProbe:
                _check_probe(key, part, found, clock)
            if key != f"remedies.{name}" or found.sections.get("detectors") == {}:
                _check_heard(key, target, part, found)
            if key == f"remedies.{name}":
                _check_ends(key, target, part, found)
            _check_shorter(key, "rewarm", part, found, clock)
    if keeps_snapshots:
        _check_snapshots(found, clock)
    _check_clip(found)


def remedies_in(key: str, node: Node) -> Iterator[tuple[str, Any, Node]]:
    """Yield (dotted key, class, node) for a remedy and those on its rungs."""
    try:
        target = locate(node.target)
    except LookupError:
        return
    yield key, target, node
    for path, written in node.parts.items():
        below = Node.model_validate(written)
        if "remedy" in below.parts:
            yield from remedies_in(f"{key}.{path}.remedy", Node.model_validate(below.parts["remedy"]))


def _check_ladder(key: str, node: Node, found: Findings, total: int) -> None:
    rungs = node.arguments.get("rungs", {})
    wrong = [name for name, rung in rungs.items() if not isinstance(rung, dict) or "remedy" not in rung]
    for name in wrong:
        rule = f"must be a section with a remedy and attempts, got {shown(rungs[name])}"
        found.add(f"{key}.rungs.{name}", rule, f"Set it as in conf/remedy/heal.yaml, or ~{key}.rungs.{name}")
    for name, rung in rungs.items():
        attempts = rung.get("attempts") if isinstance(rung, dict) else None
        if isinstance(attempts, int) and attempts > MOST_TIMES:
            rule = f"must be at most {MOST_TIMES:,}, or the ladder may have no end, got {attempts}"
            found.add(f"{key}.rungs.{name}.attempts", rule, f"Set {key}.rungs.{name}.attempts=5")
    rest = node.arguments.get("rest", 0)
    if isinstance(rest, int) and total and rest >= total:
        rule = f"must be shorter than the run of {total:,} steps, got {rest}"
        found.add(f"{key}.rest", rule, f"Set {key}.rest={5 if total > 5 else 0}")


def _check_ends(key: str, target: Any, node: Node, found: Findings) -> None:
    """What goes back has a bound of its own where no rung bounds it."""
    bound = parameters_of(target).get("max_cuts")
    if bound is None or not getattr(target, "needs", ()):
        return
    default = bound.default
    cuts = node.arguments.get("max_cuts", default)
    if cuts is None or cuts > MOST_TIMES:
        rule = f"must be an integer from 1 to {MOST_TIMES:,} outside a ladder, or the remedy may have no end"
        found.add(f"{key}.max_cuts", f"{rule}, got {shown(cuts)}", f"Set {key}.max_cuts={default}")


def _answered(target: Any, node: Node) -> list[str] | None:
    """Return the detectors that a remedy, without its rungs, answers; None where it is not told."""
    parameter = parameters_of(target).get("detectors")
    default = list(parameter.default) if parameter is not None and isinstance(parameter.default, tuple) else None
    asked = node.arguments.get("detectors", default)
    return asked if isinstance(asked, list) else None


def behind_ladder(config: Config) -> str:
    """Say that a remedy answers what a ladder before it answers, whose last rung ends the run."""
    first, taken = "", list[str]()
    for name, node in config.remedies.items():
        parts = list(remedies_in(f"remedies.{name}", node))
        asked = {detector for _, target, part in parts for detector in _answered(target, part) or ()}
        if first and (shared := [detector for detector in taken if detector in asked]):
            return (
                f"remedies.{name}: comes after {first}, which answers {', '.join(shared)} first and ends the run when "
                f"that has not helped. Set remedy=[{first}] or remedy=[{name}]."
            )
        if not first and len(parts) > 1 and any(target is Stop for _, target, _ in parts):
            first, taken = name, [detector for detector in config.detectors if detector in asked]
    return ""


def _check_heard(key: str, target: Any, node: Node, found: Findings) -> None:
    """A rung that no active detector reaches would be passed over for good, as any remedy is where nothing watches."""
    asked, active = _answered(target, node), list(found.sections.get("detectors", {}))
    if asked is not None and not set(asked) & set(active):
        rule = f"must name an active detector ({', '.join(active) or 'none is'}), got {shown(asked)}"
        wanted, what = ",".join([*active, *asked]), "rung" if ".rungs." in key else "remedy"
        found.add(f"{key}.detectors", rule, f"Set detector=[{wanted}], or leave the {what} out")


def _check_looks(key: str, found: Findings) -> None:
    train = found.sections.get("train")
    if train is not None and train.watch_every > 1:
        rule = f"must be 1 with {key}: an update that is to be dropped must not be made yet, got {train.watch_every}"
        found.add("train.watch_every", rule, "Set train.watch_every=1")


def _check_probe(key: str, node: Node, found: Findings, clock: Clock) -> None:
    total = clock.total_steps or 0
    for name in node.arguments.get("detectors", ()):
        due = found.sections.get("detectors", {}).get(name)
        at = _steps(due.arguments.get("at"), clock) if due is not None else None
        if at is None or total <= 1:
            continue
        rest, stretch = total - at - 1, _steps(node.arguments.get("stretch"), clock)
        if at and rest < LEAST_STEPS:
            rule = f"must leave {LEAST_STEPS} steps of the {total:,} for {key}, got step {at}"
            found.add(f"detectors.{name}.at", rule, f"Set detectors.{name}.at=25%, or a longer run")
        elif stretch is not None and stretch > max(rest, LEAST_STEPS):
            written = shown(node.arguments["stretch"])
            rule = f"must fit into the {rest:,} steps after {name} at step {at:,}, got {written}"
            found.add(f"{key}.stretch", rule, f"Set {key}.stretch=10%")


def _check_clip(found: Findings) -> None:
    """A norm that is set, on the page or by a remedy, goes with the clipping that has one."""
    clip, train = found.sections.get("clip"), found.sections.get("train")
    if clip is None or train is None or clip.target == FIXED:
        return
    if train.clip_norm is not None:
        rule = f"must be null with a clip that finds its own norm, got {train.clip_norm:g}"
        found.add("train.clip_norm", rule, "Set clip=fixed, or train.clip_norm=null")
    for name, node in found.sections.get("remedies", {}).items():
        for key, target, _ in remedies_in(f"remedies.{name}", node):
            if target is Clip:
                found.add(key, f"must have clip=fixed, whose norm it sets, got {clip.target!r}", "Set clip=fixed")


def _check_snapshots(found: Findings, clock: Clock) -> None:
    snapshots, total = found.sections.get("snapshots"), clock.total_steps or 0
    if snapshots is None:
        return
    try:
        every = to_steps(snapshots.every, clock)
    except ValueError as error:
        found.add("snapshots.every", f"{error}, got {shown(snapshots.every)}", "Set snapshots.every=20, in steps")
        return
    if every >= total > 1:
        rule = f"must be shorter than the run of {total:,} steps, got {shown(snapshots.every)}"
        found.add("snapshots.every", rule, "Set snapshots.every=5%")


def _check_shorter(key: str, name: str, node: Node, found: Findings, clock: Clock) -> None:
    steps, total = _steps(node.arguments.get(name), clock), clock.total_steps or 0
    if steps is not None and steps >= total > 1:
        rule = f"must be shorter than the run of {total:,} steps, got {shown(node.arguments[name])}"
        found.add(f"{key}.{name}", rule, f"Set {key}.{name}=0")


def _steps(duration: Any, clock: Clock) -> int | None:
    """Return a duration in steps, None where it is none, which is said elsewhere."""
    try:
        return None if duration is None else to_steps(duration, clock)
    except ValueError:
        return None
