"""The process around a worker: signals, the parent's end, the last words, the exit code.

`run` is what a fork calls, and `main` what `python -m modelmora_worker` calls. Both end the process by `os._exit`: what
an interpreter does at its end takes long beside torch, and the kernel gives back everything anyway.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import structlog
import uvloop

from modelmora import garbage
from modelmora.errors import InternalError, InvalidSettings, ModelMoraError
from modelmora.telemetry import configure_logging
from modelmora_worker.lifecycle import Failure
from modelmora_worker.server import Worker
from modelmora_worker.settings import WorkerSettings, read
from modelmora_worker.stopping import Stopping

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
_LONGEST_MESSAGE: Final = 4096  # bytes; Kubernetes cuts off what is longer, and half a JSON says nothing
_PARENT_CHECK_S: Final = 0.5
_log = structlog.get_logger(__name__)


def run(settings_json: str) -> NoReturn:
    """Serves as the settings say, then ends the process."""
    _end(_run(lambda: read(settings_json)))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Reads the settings from the file that the command line names, and from the environment; then as `run`.

    Other arguments are those of spec.runtime.args: an engine finds them in sys.argv.
    """
    parser = argparse.ArgumentParser(prog="python -m modelmora_worker", description="Serves one model.")
    parser.add_argument("--settings", type=Path, help="a JSON file; without it, MODELMORA_WORKER_… variables")
    known, sys.argv[1:] = parser.parse_known_args(arguments)
    file: Path | None = known.settings
    _end(_run(lambda: read(_text(file) if file else None)))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(
            f"the worker's settings cannot be read: {error}", file=str(file), remedy="name a file with --settings"
        ) from error


def _run(read_settings: Callable[[], WorkerSettings]) -> int:
    started = time.time()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    message_path: Path | None = None
    configure_logging()  # until the settings say otherwise
    gc.disable()  # until all is imported, of which hardly anything is garbage: that takes a tenth less so
    try:
        settings = read_settings()
        message_path = settings.termination_message_path
        configure_logging(log_format=settings.log_format, level=settings.log_level.upper())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failure = runner.run(_serve(settings, started))
    except ModelMoraError as error:
        failure = _not_started(error)
    except Exception as error:  # noqa: BLE001 - the top of the process
        _log.exception("worker has a bug")
        failure = Failure(InternalError.__name__, f"{type(error).__name__}: {error}", "see the worker's log", "start")
    if failure is None:
        return EXIT_DONE
    _leave_message(message_path, failure)
    return EXIT_FAILED


async def _serve(settings: WorkerSettings, started: float) -> Failure | None:
    structlog.contextvars.bind_contextvars(model=settings.model_id, worker=settings.worker_id)
    _say_failed_preload()
    stopping = Stopping(settings.drain_timeout_s)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.signalled)
    worker = Worker(settings, stopping, garbage.settle)
    if settings.started_at is not None and _is_first_start(settings.first_start_file):
        worker.spawned(max(0.0, started - settings.started_at))
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch_parent(settings, stopping), name="parent")
        try:
            failure = await worker.run()
        except ModelMoraError as error:  # here, since a task group would wrap it
            failure = _not_started(error)
        watching.cancel()
    return failure


def _is_first_start(marker: Path | None) -> bool:
    """A pod restarts a worker in place, long after the wish for it."""
    if marker is None:
        return True
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        _log.warning("first start is not marked", file=str(marker), cause=str(error))
    return True


def _not_started(error: ModelMoraError) -> Failure:
    failure = Failure(type(error).__name__, error.message, error.context.remedy, "start")
    _log.error("worker did not start", reason=failure.reason, message=failure.message, remedy=failure.remedy)
    return failure


def _say_failed_preload() -> None:
    preload = sys.modules.get("modelmora_worker.preload")  # there only if the parent imported it before the fork
    if preload is not None and preload.failure:
        _log.warning("preload failed", cause=preload.failure)


async def _watch_parent(settings: WorkerSettings, stopping: Stopping) -> None:
    """Ends the worker with its parent: by the parent's sentinel in a fork, by its pid in a fresh process."""
    if not settings.exit_with_parent:
        return
    parent = multiprocessing.parent_process()
    if parent is not None:
        await _readable(parent.sentinel)
    else:
        await _ended(settings.parent_pid or os.getppid())
    _log.warning("parent ended")
    stopping.end_now()


async def _ended(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # it has ended, or this kernel has no such handles
        while os.getppid() == pid:  # noqa: ASYNC110 - no event comes
            await asyncio.sleep(_PARENT_CHECK_S)
        return
    try:
        if os.getppid() == pid:
            await _readable(handle)
    finally:
        os.close(handle)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _leave_message(path: Path | None, failure: Failure) -> None:
    """The last words, for whoever started this process."""
    if path is None:
        return
    try:
        path.write_bytes(_words(failure))
    except OSError:
        traceback.print_exc()


def _words(failure: Failure) -> bytes:
    """As JSON, with texts as long as there is room for."""
    longest = _LONGEST_MESSAGE
    while True:
        texts = {"message": failure.message[:longest], "remedy": failure.remedy[:longest]}
        said = {"reason": failure.reason, **texts, "where": failure.where}
        words = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
        if len(words) <= _LONGEST_MESSAGE or not longest:
            return words
        longest = longest * 3 // 4


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
