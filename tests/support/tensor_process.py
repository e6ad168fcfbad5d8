"""A process that shares memory, and does what a test tells it.

As a program it reads Python from its standard input, a JSON string a line, runs it, and answers with a line of JSON:
the value of the last expression, or the error.
"""

import ast
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0  # they import NumPy and more, beside other tests
_NAMES = """
import gc, os, signal, socket, threading, time
from pathlib import Path
import numpy as np
from modelmora import errors, tensors
from modelmora.tensors import Listener, Quota, Terms, connect
from tests.support.memory_maps import arenas_mapped, open_files, private_dirty
from tests.support.waiting import until
"""


class Refused(Exception):
    """The other process raised; `kind` is the name of its exception's class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class TensorProcess:
    """One, until the block ends."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},  # noqa: TID251 - handed on
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def tell(self, code: str) -> None:
        """Lets it run this, and does not wait."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, within_s: float = DEADLINE_S) -> Any:
        """What the last code that it was told came to."""
        out = self._process.stdout
        assert out
        assert select.select([out], [], [], within_s)[0], f"waited {within_s} s for an answer"
        line = out.readline()
        assert line, f"the process is gone: {self._process.wait(within_s)}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(*answer["error"])
        return answer["value"]

    def ask(self, code: str, within_s: float = DEADLINE_S) -> Any:
        """Runs this there; the value of its last expression."""
        self.tell(code)
        return self.answer(within_s)

    def kill(self) -> None:
        """As `kill -9`, and waits for the end."""
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def ended_by(self) -> signal.Signals | None:
        """Waits for its end; the signal that brought it."""
        code = self._process.wait(DEADLINE_S)
        return signal.Signals(-code) if code < 0 else None


def _main() -> None:
    names: dict[str, Any] = {}
    exec(_NAMES, names)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), names)), file=out, flush=True)


def _run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        body = ast.parse(code).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "<test>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<test>", "eval"), names) if isinstance(last, ast.Expr) else 0
        return {"value": value.item() if hasattr(value, "item") else value if _plain(value) else None}
    except Exception as error:  # noqa: BLE001 - the test hears of it
        return {"error": [type(error).__name__, str(error)]}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | dict)


if __name__ == "__main__":
    _main()
