"""What a run looks like on a real pseudo-terminal, in a pipe, without colour, in ASCII, and in silence."""

import json
import os
import pty
import re
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ENVIRONMENT, Program
from tests.processes import Forked

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d)[;\d]*m")
ESCAPE = re.compile(r"\x1b\[[?;\d]*[A-Za-z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Seen(NamedTuple):
    """What a terminal received."""

    code: int
    raw: str

    @property
    def text(self) -> str:
        """Without control sequences, in lines as they were sent."""
        return ESCAPE.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")


class OnTerminal:
    """A run whose stdin, stdout and stderr are a pseudo-terminal of 100 columns."""

    def __init__(self, *overrides: str, directory: Path, **environment: str) -> None:
        there, here = pty.openpty()
        kept = {name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"}
        fresh = {**kept, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment}
        self.process = Forked("tracking=off", *overrides, directory=directory, environment=fresh, streams=here)
        os.close(here)
        self._there = there
        self._received = b""
        self._reader = threading.Thread(target=self._read, args=(there,))
        self._reader.start()

    def _read(self, there: int) -> None:
        with open(there, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(65536):
                    self._received += data
            except OSError:  # Linux says so when the other end is closed
                pass

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text.encode() not in self._received:
            assert time.monotonic() < deadline, self._received
            time.sleep(0.02)

    def type(self, keys: str) -> None:
        os.write(self._there, keys.encode())

    def end(self) -> Seen:
        code = self.process.wait()
        self._reader.join()
        return Seen(code, self._received.decode())


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_terminal_has_a_bar_a_panel_a_command_and_the_run_directory_last(tmp_path: Path) -> None:
    seen = OnTerminal("train.duration=60", directory=tmp_path).end()
    assert seen.code == 0, seen.text
    assert re.search(r"^60/60 ━+ 100%", seen.text, re.MULTILINE)
    assert re.search(r"^loss \d\.\d+  lr \S+ .*val/loss \d\.\d+", seen.text, re.MULTILINE)
    panel = seen.text[seen.text.index("╭") : seen.text.index("╯")]
    assert "sgd lr=0.1 cosine w3" in panel
    assert re.search(r"│ finished .*│ best +val/loss .* at step \d+ .*│ final +train/loss ", panel, re.DOTALL)
    assert re.search(r"│ loss +[▁▂▃▄▅▆▇]{32} \d\.\d{4} to \d\.\d{4}", panel)
    assert COLOUR.search(seen.raw)
    assert seen.raw.rindex(SHOW) > seen.raw.rindex(HIDE)
    assert (tmp_path / last_line(seen.text) / "result.json").is_file()


def test_alarm_stands_above_the_bar_the_command_is_in_one_piece_and_no_color_has_none(tmp_path: Path) -> None:
    seen = OnTerminal("optimizer.lr=30", "tags.long=" + "x" * 90, directory=tmp_path, NO_COLOR="1").end()
    assert seen.code == 3
    lines = seen.text.splitlines()
    alarm = next(i for i, line in enumerate(lines) if "alarm  gradient norm is inf at step" in line)
    assert any(re.match(r" *\d+/440 .*2 alarms$", line) for line in lines[alarm + 1 :])
    assert re.search(r"│ diverged: gradient norm is inf at step", seen.text)
    assert f"python -m runner tracking=off tags.long={'x' * 90} optimizer.lr=3\n" in seen.text
    assert COLOUR.findall(seen.raw) == []


def test_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    seen = OnTerminal("task=quadratic", "train.duration=20", directory=tmp_path, TERM="dumb").end()
    assert "step 20/20  loss " in seen.text
    assert "\x1b" not in seen.raw


def test_interrupt_closes_the_bar_and_shows_the_cursor(tmp_path: Path) -> None:
    run = OnTerminal("train.duration=100000", directory=tmp_path)
    run.wait_for(" left")
    run.process.send_signal(signal.SIGINT)
    seen = run.end()
    assert seen.code == 130
    assert "│ interrupted by SIGINT at step" in seen.text
    assert seen.raw.rindex(SHOW) > seen.raw.rindex(HIDE)
    assert f"go on with: python -m runner resume.from={last_line(seen.text)}\n" in seen.text


def test_error_closes_the_bar_and_what_others_print_stands_above_it(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from runner.tasks.digits import Digits\n"
        "class Broken(Digits):\n"
        "    def batch(self, step, split, part=(0, 1)):\n"
        "        if step == 1:\n"
        "            print('said by the task')\n"
        "            raise RuntimeError('the cat sat on the GPU')\n"
        "        return super().batch(step, split, part)\n"
    )
    seen = OnTerminal("task._target_=broken.Broken", directory=tmp_path).end()
    assert seen.code == 1
    assert "said by the task\n" in seen.text
    assert seen.raw.rindex(SHOW) > seen.raw.rindex(HIDE)
    assert seen.text.rindex("RuntimeError: the cat") > seen.text.rindex("/440")


def test_quiet_prints_the_run_directory_and_alarms_elsewhere(program: Program) -> None:
    done = program("quiet=true", "optimizer.lr=30", "train.duration=50")
    assert done.code == 3
    assert done.out == f"{done.run.relative_to(done.directory)}\n"
    warning, early, alarm, action = done.err.splitlines()
    assert warning.startswith("warning optimizer.lr: 30 is ")
    assert early.startswith("alarm  smoothed loss ")
    assert alarm.startswith("alarm  gradient norm is inf at step ")
    assert action.startswith("action Stop at step ")


def test_pipe_gets_a_line_of_progress_between_evaluations(tmp_path: Path) -> None:
    there, here = os.pipe()
    words = ["tracking=off", "task=quadratic", "train.duration=1e9"]
    process = Forked(*words, directory=tmp_path, environment=ENVIRONMENT, streams=here)
    os.close(here)
    with open(there) as output:
        _, line = output.readline(), output.readline()
        process.send_signal(signal.SIGTERM)
        rest = output.read()
    pattern = r"step +[\d,]+/1,000,000,000  loss \S+  lr \S+  [\d,.]+ examples/s  \d+:\d\d:\d\d left\n"
    assert re.fullmatch(pattern, line), line
    assert process.wait(60) == 143
    result = json.loads((tmp_path / last_line(rest) / "result.json").read_text())
    assert f"step {result['steps']:>13,}/1,000,000,000  loss " in line + rest


def test_encoding_without_blocks_gets_ascii_and_no_error(tmp_path: Path) -> None:
    words = ["tracking=off", "task=quadratic", "train.duration=40", "name='\u03b7 decay'"]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    code, out, err = Forked(*words, directory=tmp_path, environment=environment).communicate()
    assert code == 0, err
    assert re.search(r"^loss    [_.=*#-]{32} ", out, re.MULTILINE)
    assert out.startswith("\\u03b7 decay: sgd")
