"""The log of a process: every line is JSON, whatever writes it, and a traceback is a field of its line."""

import json
import subprocess
import sys
from typing import Any

import pytest

START = """
import logging, sys, threading, warnings
import structlog
from modelmora.telemetry import LogFormat, configure_logging
configure_logging(log_format=LogFormat.JSON, level={level!r})
log = structlog.get_logger("mine")
"""


def lines(program: str, *, level: str = "DEBUG") -> list[dict[str, Any]]:
    """What the program writes on stderr."""
    source = START.format(level=level) + program
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    return [json.loads(line) for line in done.stderr.rstrip("\n").split("\n")]


@pytest.mark.req("REQ-OBS-002a", "RM-2.6e")
def test_an_event_is_one_line_with_its_keys() -> None:
    (line,) = lines('log.info("model loaded", model="org/one", text="two\\nlines \\u2028 and \\ud800", request_id="r")')
    assert (line["event"], line["level"], line["logger"]) == ("model loaded", "info", "mine")
    assert (line["model"], line["request_id"]) == ("org/one", "r")
    assert line["timestamp"].endswith("Z")


@pytest.mark.req("REQ-OBS-002a")
def test_libraries_and_warnings_write_the_same_lines() -> None:
    library, warning = lines('logging.getLogger("lib").warning("%s is odd", 1)\nwarnings.warn("an old way")')
    assert (library["event"], library["logger"]) == ("1 is odd", "lib")
    assert "an old way" in warning["event"]


@pytest.mark.req("REQ-OBS-002a")
def test_what_json_does_not_know_is_written_as_text() -> None:
    (line,) = lines('log.info("odd", path=__import__("pathlib").Path("/a"), data=b"\\xff", kind=int)')
    assert "/a" in line["path"]


@pytest.mark.req("REQ-OBS-003c")
def test_a_caught_error_has_its_traceback_in_a_field() -> None:
    program = 'try:\n    {}["missing"]\nexcept KeyError:\n    log.exception("it failed")'
    (line,) = lines(program)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert "KeyError: 'missing'" in line["exception"]


@pytest.mark.req("REQ-OBS-003c", "REQ-OBS-002a")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param('raise ValueError("nobody caught it")', id="program"),
        pytest.param(
            'def work():\n    raise ValueError("nobody caught it")\n'
            "thread = threading.Thread(target=work)\nthread.start()\nthread.join()",
            id="thread",
        ),
        pytest.param(
            'class Odd:\n    def __del__(self):\n        raise ValueError("nobody caught it")\nOdd()', id="finalizer"
        ),
        pytest.param(
            "import asyncio\n\nasync def work():\n"
            '    asyncio.get_running_loop().call_soon(lambda: [][1:].index("nobody caught it"))\n'
            "    await asyncio.sleep(0.01)\n\nasyncio.run(work())",
            id="callback",
        ),
    ],
)
def test_what_nobody_caught_is_a_line_too(program: str) -> None:
    (line,) = lines(program)
    assert line["level"] in {"error", "critical"}
    assert "ValueError" in line["exception"]


@pytest.mark.req("REQ-OBS-002b", "RM-2.6f")
@pytest.mark.parametrize(("level", "seen"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_the_level_says_what_is_written(level: str, seen: int) -> None:
    program = "for level in ('debug', 'info', 'warning', 'error'):\n    getattr(log, level)('said', level_asked=level)"
    assert len(lines(program, level=level)) == seen
