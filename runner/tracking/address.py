"""Where MLflow is: its uri, the environment in which to talk to it, and what to say when it does not answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 retries take four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


def absolute(uri: str) -> str:
    """Return the uri with the path of a sqlite file made absolute."""
    if not uri.startswith("sqlite:///") or uri.startswith("sqlite:////"):
        return uri
    return "sqlite:///" + os.path.abspath(uri.removeprefix("sqlite:///"))


def shown(uri: str) -> str:
    """Return the uri, or a text with several, with the passwords hidden."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]+@", r"\1:***@", uri)


def masked(value: Any) -> Any:
    """Return plain values with the passwords of all addresses in them hidden."""
    if isinstance(value, Mapping):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return shown(value) if isinstance(value, str) else value


def database_path(uri: str) -> Path:
    """Return the file of a sqlite uri."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def artifacts_root(uri: str, runs: Path) -> str | None:
    """Return the folder for artifacts of a database without a server; a server knows its own."""
    if uri.startswith("http"):
        return None
    root = database_path(uri).parent if uri.startswith("sqlite") else runs
    return (root.absolute() / "mlartifacts").as_uri()


def set_environment() -> None:
    """Make MLflow in this process give up soon, unless the user wants otherwise; before it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def child_environment() -> dict[str, str]:
    """Return the environment of a child: short waits, and `runner` importable from a checkout too."""
    root = Path(__file__).resolve().parents[2]
    found = {**ENVIRONMENT, **os.environ}
    if root.name not in ("site-packages", "dist-packages"):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return found


def unreachable(uri: str, error: Exception) -> str:
    """Return the first sentence about a server that cannot be reached."""
    return f"tracking.uri: must be a reachable MLflow server, got {shown(uri)} ({reason(error)})."


def has_no_answer(error: Exception) -> bool:
    """Whether an error says that nobody answers."""
    return re.search(r"refused|timed out|Max retries|unable to open database", str(error)) is not None


def reason(error: Exception) -> str:
    """Return what a person needs of an error that may be a page long."""
    text = " ".join(str(error).split())
    driver = re.search(r"No module named 'psycopg(2?)'", text)
    if driver:
        return "pip install psycopg2-binary" if driver[1] else "pip install psycopg[binary]"
    errno = re.findall(r"\[Errno -?\d+\] ([^'\"()\]]+)", text)
    if errno:
        return str(errno[-1]).strip(" :")
    known = re.search(r"timed out|FATAL: [^(]*|connection refused", text, re.IGNORECASE)
    if known:
        return known[0].strip()
    return text.partition(". ")[0][:150] or type(error).__name__
