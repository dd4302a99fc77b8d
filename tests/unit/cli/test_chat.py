"""`aixgo chat` as a script at a pipe and a person at a terminal use it, each in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.support import ROOT, start_host

BOUND = 30.0
"""Seconds that a process may take to start or to answer, on a busy machine."""
FILE = """\
version: 2
agents:
  - {name: echo, role: llm, model: test/echo}
  - {name: slow, role: llm, model: test/slow}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
sessions: {store: "sqlite:///sessions.db"}
"""
AIXGO = "from aixgo_services.cli.main import main; main()"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(FILE)
    return path


def chat(*arguments: str, said: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AIXGO, "chat", *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=BOUND, check=False, cwd=ROOT)


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def prompt_tokens(events: list[Any]) -> list[int]:
    return [event["message"]["usage"]["prompt_tokens"] for event in events if event["event"] == "Result"]


def test_piped_lines_are_answered_one_after_the_other_in_one_session(file: Path):
    done = chat("echo", f"--file={file}", said="hello\n\nhow are you\n")
    assert (done.returncode, done.stdout) == (0, "hello\nhow are you\n")
    assert "1 LLM calls, 2 tokens" in done.stderr
    assert "2 LLM calls, 10 tokens" in done.stderr.splitlines()[-1]  # 1 + 1, and 5 with what was said before + 3
    assert ">" not in done.stderr


def test_json_lines_tell_the_session_each_event_and_what_it_cost(file: Path):
    done = chat("echo", f"--file={file}", "--json", said="hello\nyou\n")
    events = lines(done)
    assert [event["event"] for event in events] == ["Session", "Delta", "Result", "Delta", "Result", "End"]
    assert events[0]["agent"] == "echo"
    assert {events[2]["message"]["session_id"], events[-1]["session_id"]} == {events[0]["session_id"]}
    assert events[-1]["usage"]["llm_calls"] == 2
    assert prompt_tokens(events) == [1, 3]
    assert done.stderr == ""


def test_a_conversation_is_continued_and_new_begins_another(file: Path):
    first = lines(chat("echo", f"--file={file}", "--json", said="one\n"))
    session = first[0]["session_id"]
    done = chat("echo", f"--file={file}", "--json", f"--session={session}", said="two\n/new\nthree\n/exit\nfour\n")
    again = lines(done)
    assert again[0]["session_id"] == session
    assert again[3]["event"] == "Session"
    assert again[3]["session_id"] == again[-1]["session_id"] != session
    assert prompt_tokens(again) == [3, 1]


def test_an_unknown_command_is_told_and_not_sent(file: Path):
    done = chat("echo", f"--file={file}", said="/exti\n/usr is a folder\n")
    assert done.stdout == "/usr is a folder\n"
    assert "there is no command /exti; did you mean '/exit'?" in done.stderr


def test_with_piped_lines_the_first_failure_ends_the_command(file: Path):
    done = chat("fails", f"--file={file}", "--json", said="one\ntwo\n")
    assert done.returncode == 1
    assert [event["event"] for event in lines(done)] == ["Session", "End"]
    assert lines(done)[-1]["usage"]["llm_calls"] == 1
    assert json.loads(done.stderr)["error"] == "RateLimited"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name the agent to talk to"),
        (["echo", "--file=x.yaml", "--address=h:1"], "give one of --file, --address"),
        (["--file=none.yaml"], "there is no such file"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], told: str):
    done = chat(*arguments, said="")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_of_another_process_is_talked_to():
    with start_host(["words"]) as host:
        done = chat("words", f"--address={host.wait_ready().address}", "--json", said="a b\n")
    assert done.returncode == 0
    events = lines(done)
    assert [event["text"] for event in events if event["event"] == "Delta"] == ["a", "b"]


class Terminal:
    """A process at a terminal, as a person sees and uses it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self.process = master, process
        self.shown = ""

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> None:
        """Wait until `text` is shown, and forget what stands before it."""
        end = monotonic() + BOUND
        while text not in self.shown:
            readable, _, _ = select.select([self._master], [], [], max(0.0, end - monotonic()))
            assert readable, f"{text!r} was not shown, but: {self.shown}"
            self.shown += os.read(self._master, 4096).decode().replace("\r\n", "\n")
        self.shown = self.shown.partition(text)[2]

    def ends(self) -> int:
        """The exit code, once the process has ended."""
        return self.process.wait(BOUND)


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    try:
        # Leading a session of its own, the process gets the terminal, and with it Ctrl-C.
        take = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {AIXGO}"
        with subprocess.Popen(
            [sys.executable, "-c", take, "chat", *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                yield Terminal(master, process)
            finally:
                process.kill()
    finally:
        os.close(slave)
        os.close(master)


CTRL_C, CTRL_D = "\x03", "\x04"


def test_at_a_terminal_an_answer_is_shown_while_it_comes_and_ctrl_c_stops_it(file: Path):
    with terminal("slow", f"--file={file}") as person:
        person.until("> ")
        person.types("one two\n")
        person.until("one two\n")  # what was typed
        person.until("one two")  # the answer, which never ends
        person.types(CTRL_C)
        person.until("stopped\n")
        person.until("> ")
        person.types(CTRL_D)
        person.until("to continue: --session ")
        person.until("at least")
        assert person.ends() == 0


def test_ctrl_c_leaves_where_no_answer_is_coming(file: Path):
    with terminal("echo", f"--file={file}") as person:
        person.until("> ")
        person.types("hello\n")
        person.until("hello\nhello\n")
        person.until("> ")
        person.types(CTRL_C)
        person.until("to continue: --session ")
        assert person.ends() == 130


def test_at_a_terminal_the_conversation_goes_on_after_a_failure(file: Path):
    with terminal("fails", f"--file={file}") as person:
        person.until("> ")
        person.types("hello\n")
        person.until("aixgo: RateLimited")
        person.until("> ")
        person.types("/exit\n")
        assert person.ends() == 0


def test_sigint_at_a_pipe_stops_the_answer_and_leaves(file: Path):
    command = [sys.executable, "-c", AIXGO, "chat", "slow", f"--file={file}", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one two\nthree\n")
        process.stdin.flush()
        shown = [json.loads(process.stdout.readline())["event"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert json.loads(process.stdout.readline())["event"] == "End"
        assert process.wait(BOUND) == 130
    assert shown == ["Session", "Delta", "Delta"]
