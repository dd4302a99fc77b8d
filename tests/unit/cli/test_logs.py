"""The log of a process."""

from __future__ import annotations

import io
import json
import logging

from aixgo_services.logs import set_up_logs


def test_json_lines_carry_time_level_logger_message_and_exception():
    stream = io.StringIO()
    set_up_logs("INFO", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("aixgo.x").exception("it failed: %s", "badly")
    told = json.loads(stream.getvalue())
    assert (told["level"], told["logger"], told["message"]) == ("ERROR", "aixgo.x", "it failed: badly")
    assert "ValueError: broken" in told["exception"]
    assert told["time"].endswith("+00:00")


def test_text_lines_are_for_people():
    stream = io.StringIO()
    set_up_logs("INFO", "text", stream)
    logging.getLogger("aixgo_services").info("hello")
    assert stream.getvalue().endswith("INFO    aixgo_services: hello\n")


def test_the_level_is_for_aixgo_and_libraries_stay_quiet():
    stream = io.StringIO()
    set_up_logs("DEBUG", "text", stream)
    logging.getLogger("aixgo.x").debug("ours")
    logging.getLogger("library").info("theirs")
    logging.getLogger("library").warning("their warning")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["ours", "their warning"]


def test_setting_up_twice_writes_each_line_once():
    first, second = io.StringIO(), io.StringIO()
    set_up_logs("INFO", "text", first)
    set_up_logs("INFO", "text", second)
    logging.getLogger("aixgo.x").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
