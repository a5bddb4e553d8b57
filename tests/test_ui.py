"""`make ui`: the link to the newest experiment, and in a real browser its charts."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, Program

CHROMIUM = shutil.which("chromium")


class Answers(BaseHTTPRequestHandler):
    """What a server of MLflow says of one experiment with one run."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        run = {"run_id": "a", "experiment_id": "7", "status": "FINISHED", "start_time": 1, "lifecycle_stage": "active"}
        found = {
            "/api/2.0/mlflow/experiments/search": {"experiments": [{"experiment_id": "7", "name": "digits"}]},
            "/api/2.0/mlflow/runs/search": {"runs": [{"info": run, "data": {}}]},
        }.get(self.path.partition("?")[0])
        text = json.dumps(found or {}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_ui_of_a_server_is_its_page_of_the_newest_experiment(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        done = program("mode=ui", f"tracking.uri={uri}", "mode.browser=false", tracking="mlflow")
        server.shutdown()
        thread.join()
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"MLflow UI: {uri}/#/experiments/7/runs?compareRunsMode=CHART"
    assert not (done.directory / "runs").exists()


@pytest.fixture
def link(program: Program, tmp_path: Path) -> Iterator[str]:
    """Address printed by mode=ui over two runs of one experiment."""
    for lr in (0.01, 0.1):
        done = program("train.duration=50", f"optimizer.lr={lr}", tracking="mlflow")
        assert done.code == 0, done.err
    command = [sys.executable, "-m", "runner", "mode=ui", "mode.browser=false", "mode.port=5311"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(200, process.kill)
    watchdog.start()
    with process:  # closes the pipe, which else is collected during a later test that it fails
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("MLflow UI: ")), None)
        assert line is not None, "mode=ui ended without a link"
        yield line.removeprefix("MLflow UI: ").strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    watchdog.cancel()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_ui_shows_the_charts_of_both_runs_and_ends_with_ctrl_c(link: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs\?compareRunsMode=CHART", link)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1500, "height": 2500})  # charts are drawn when they are in view
        page.goto(link)
        for text in ("train/loss", "sgd lr=0.1 cosine w3", "sgd lr=0.01 cosine w3"):
            expect(page.get_by_text(text, exact=False).first).to_be_visible(timeout=30_000)
        page.wait_for_timeout(3000)
        page.screenshot(path=tmp_path / "ui.png")
        browser.close()
