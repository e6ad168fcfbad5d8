"""The servers that we compare ourselves with, each a process; those from PyPI in environments of their own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

FOLDER = Path(__file__).resolve().parent / "rivals"
# Of the same versions as ours: what is compared is the server around the engine.
_ENGINE = ("torch", "transformers", "sentence-transformers", "numpy")
_START_S = 180.0
_INSTALL_S = 1800.0


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def running(
    script: str,
    *arguments: str,
    listens: str,
    python: Path | str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Iterator[psutil.Process]:
    """Runs a program of rivals/ until the block ends, from when it listens on `listens`, with all its children."""
    command = [str(python), str(FOLDER / script), *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})  # noqa: TID251
        family = psutil.Process(process.pid)
        try:
            _until_listening(process, listens, script)
            yield family
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            _end(family)
            process.wait()


@contextmanager
def bare_and_proxy(script: str) -> Iterator[tuple[str, str]]:
    """A bare server of rivals/, and the bare proxy before another one of the same: their addresses."""
    bare, proxy = free_address(), free_address()
    with tempfile.TemporaryDirectory(prefix="mm-") as folder:
        worker = f"unix:{folder}/worker.s"
        with (
            running(script, bare, listens=bare),
            running(script, worker, listens=worker),
            running("proxy.py", proxy, worker, listens=proxy),
        ):
            yield bare, proxy


def _until_listening(process: "subprocess.Popen[bytes]", address: str, script: str) -> None:
    end = time.monotonic() + _START_S
    while not _listens(address):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{script} did not start; its log is above")
        time.sleep(0.05)


def _listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    kind, _, place = address.rpartition("unix:")
    try:
        if place and "unix:" in address:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(place)
        else:
            host, _, port = (kind or address).rpartition(":")
            socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _end(family: psutil.Process) -> None:
    everyone = [*family.children(recursive=True), family]
    for process in everyone:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue  # it ended by itself


@contextmanager
def environment(packages: Sequence[str]) -> Iterator[Path]:
    """The python of a new virtual environment with these packages and our engine's libraries; gone afterwards."""
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in _ENGINE]
    with tempfile.TemporaryDirectory(prefix="rival-") as folder:
        python = Path(folder) / "bin" / "python"
        if uv := shutil.which("uv"):
            _run(uv, "venv", "--quiet", "--python", sys.executable, "--allow-existing", folder)
            _run(uv, "pip", "install", "--quiet", "--python", str(python), *packages, *pinned)
        else:
            _run(sys.executable, "-m", "venv", folder)
            _run(str(python), "-m", "pip", "install", "--quiet", *packages, *pinned)
        yield python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_INSTALL_S)
