"""mode=ui: the MLflow UI on this machine, at the charts of the newest experiment."""

from __future__ import annotations

import time
import webbrowser
from typing import Annotated

from annotated_types import Ge, Le

from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.tracking.ui import serve_ui
from runner.train.interrupt import listen


def run(
    config: Config, invocation: Invocation, *, port: Annotated[int, Ge(1), Le(65535)] = 5000, browser: bool = True
) -> None:
    """Serve until Ctrl-C and print the link.

    Args:
        config: `tracking.uri` says where the runs are.
        invocation: not used.
        port: first port to try on 127.0.0.1.
        browser: whether to open a browser window.

    Raises:
        ConfigError: tracking is off.
        TrackingError: the server does not start.
    """
    if config.tracking.uri is None:
        raise ConfigError([Problem("tracking.uri", "must be given to look at, got null", "Set tracking=mlflow")])
    print("starting the MLflow UI ...", flush=True)
    with listen() as received:
        ui = serve_ui(config.tracking.uri, port=port)
        try:
            print(f"MLflow UI: {ui.link}", flush=True)
            if ui.process is None:
                return
            print("Ctrl-C ends it", flush=True)
            if browser:
                webbrowser.open(ui.link)
            while received() is None and ui.process.poll() is None:
                time.sleep(0.2)
        finally:
            ui.stop()
