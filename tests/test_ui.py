"""`make ui` in a real browser: the charts of the newest experiment are there."""

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, Program

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]


@pytest.fixture
def link(program: Program, tmp_path: Path) -> Iterator[str]:
    """Address printed by mode=ui over two runs of one experiment."""
    for lr in (0.01, 0.1):
        done = program("train.duration=50", f"optimizer.lr={lr}", tracking="mlflow")
        assert done.code == 0, done.err
    command = [sys.executable, "-m", "runner", "mode=ui", "mode.browser=false", "mode.port=5311"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    with process:  # closes the pipe, which else is collected during a later test that it fails
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("MLflow UI: ")), None)
        assert line is not None, "mode=ui ended without a link"
        yield line.removeprefix("MLflow UI: ").strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    watchdog.cancel()


def test_ui_shows_the_charts_of_both_runs_and_ends_with_ctrl_c(link: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs\?compareRunsMode=CHART", link)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(link)
        for text in ("train/loss", "sgd lr=0.1 cosine w3", "sgd lr=0.01 cosine w3"):
            expect(page.get_by_text(text, exact=False).first).to_be_visible(timeout=30_000)
        page.wait_for_timeout(3000)
        page.screenshot(path=tmp_path / "ui.png")
        browser.close()
