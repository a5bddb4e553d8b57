"""Runs of MLflow, ours and others: by id, `mlflow:<id>`, `runs:/<id>`, or the address of the run in the UI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from runner.diagnosis.curve import Known
from runner.errors import TrackingError
from runner.known import known_of_page
from runner.readers.collect import Columns
from runner.readers.problems import refused
from runner.readers.roles import Role, Roles, find_roles
from runner.readers.series import join_series

_ID = r"[0-9a-f]{32}"
_NAMED = re.compile(rf"(?:(?:mlflow|runs):/*)?({_ID})/?", re.IGNORECASE)
_LINK = re.compile(rf"(https?://[^#]+?)/?(?:#/.*|/[^#]*)?runs/({_ID}).*", re.IGNORECASE)
_SCHEMES = ("mlflow:", "runs:/", "http://", "https://")


class RunAddress(NamedTuple):
    """An MLflow run, and the server that a link names; None is `tracking.uri`."""

    run_id: str
    server: str | None


def mlflow_address(text: str) -> RunAddress | None:
    """Return the run that a text names, None where it is none.

    Raises:
        ConfigError: it begins like one and is none.
    """
    if found := _NAMED.fullmatch(text):
        return RunAddress(found[1].lower(), None)
    if found := _LINK.fullmatch(text):
        return RunAddress(found[2].lower(), found[1])
    if text.lower().startswith(_SCHEMES):
        fix = "Give the run's id, 32 letters and digits, as the MLflow UI shows it, or the address of its page there"
        raise refused(f"must name a run of MLflow, got {text!r}", fix)
    return None


def read_mlflow_run(
    run: RunAddress, given: Mapping[Role, str], *, uri: str | None
) -> tuple[Columns, Roles, Known, str]:
    """Read loss and what else is recorded of a run.

    Returns:
        columns, roles, what its params tell, and the name of the run.
    Raises:
        ConfigError: there is no such run, or none of its metrics is a loss.
    """
    server = run.server or uri
    if server is None:
        raise refused(
            f"must be a run of a server that is named, got {run.run_id!r}", "Set tracking.uri to that of MLflow"
        )
    from runner.tracking.mlflow import find_run, metric_history

    try:
        found = find_run(server, run.run_id)
        if found is None:
            fix = "Check the id, or set tracking.uri to the server that has the run"
            raise refused(f"must be a run that {server} has, got {run.run_id!r}", fix)
        roles = find_roles(sorted(found.metrics), given, where=f"run {found.name or run.run_id}")
        wanted = [name for role, name in roles.columns.items() if role != "step"]
        series = {name: metric_history(server, run.run_id, name) for name in wanted}
    except TrackingError as error:
        raise refused(
            f"must be a run of a server that answers, but {str(error).rstrip('.')}", "Set tracking.uri"
        ) from None
    fixed: dict[Role, str] = {role: name for role, name in roles.columns.items() if role != "step"}
    columns, _ = join_series(series, fixed, where="")
    return columns, roles._replace(step=None), _known(found.params), found.name or run.run_id


def _known(params: Mapping[str, str]) -> Known:
    """Return what the params of a run tell: those of ours are keys of the page, others have usual names."""
    if "optimizer._target_" in params:
        return known_of_page(_tree(params), None)
    lr = next((_number(params[name]) for name in ("learning_rate", "lr", "optimizer.lr") if name in params), None)
    return Known(lr=lr)


def _tree(params: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, text in params.items():
        *sections, name = key.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict):
            try:
                at[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                at[name] = text
    return tree


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
