"""From a deployment to an engine that has proved itself: import and fetch side by side, then load, then test; timed.

Everything of the engine happens on the device thread; fetching needs none of it. Whichever of the two fails first ends
both: a wrong source is told at once, not after seconds of importing, a missing package before gigabytes are fetched.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from modelmora import sources
from modelmora.errors import HealthInferenceFailed, LoadError, LoadFailed
from modelmora_worker.engines import Engine, EngineContext, catalog
from modelmora_worker.lifecycle import FETCHING, LOADING, TESTING, Artifact, Failure, Lifecycle
from modelmora_worker.proving import prove
from modelmora_worker.settings import WorkerSettings

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class _Stopped(Exception):  # carries a failure out of the steps
    """A step failed; the failure says which and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Steps:
    """Runs blocking steps on threads, and keeps the time."""

    lifecycle: Lifecycle
    device: ThreadPoolExecutor
    model_id: str

    async def run(self, name: str, work: Callable[[], T], *, thread: ThreadPoolExecutor | None = None) -> T:
        """On the device thread, or on another."""
        started = time.monotonic()
        try:
            result = await asyncio.get_running_loop().run_in_executor(thread or self.device, _contained, work)
        except LoadError as error:
            raise _Stopped(Failure.of(error.located(model_id=self.model_id), name)) from error
        except Exception as error:
            _log.exception("step raised", model=self.model_id, step=name)
            raise _Stopped(Failure.of(_unexpected(error, name, self.model_id), name)) from error
        self.lifecycle.took(name, time.monotonic() - started)
        return result


class _Contained(Exception):
    """A step raised what is no Exception (SystemExit, a panic in Rust): that would end the process without a word."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(str(raised))
        self.raised = raised


def _contained(work: Callable[[], T]) -> T:
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise _Contained(error) from error


async def load(
    settings: WorkerSettings, lifecycle: Lifecycle, device: ThreadPoolExecutor, settle: Callable[[], None]
) -> Engine | Failure:
    """The engine, ready to serve; or why there is none. `settle` is called when something lasting has been built."""
    try:
        return await _load(settings, lifecycle, device, settle)
    except _Stopped as stopped:
        return stopped.failure


async def _load(
    settings: WorkerSettings, lifecycle: Lifecycle, device: ThreadPoolExecutor, settle: Callable[[], None]
) -> Engine:
    deployment = settings.deployment
    steps = _Steps(lifecycle, device, deployment.model_id)
    lifecycle.advance(FETCHING)
    kind, fetched = await _import_and_fetch(steps, settings, settle)
    lifecycle.advance(LOADING)
    context = engine_context(settings, fetched.path)
    engine = await steps.run("load", lambda: kind(context))
    artifact = Artifact(fetched.digest, fetched.revision, fetched.bytes, fetched.files)
    lifecycle.loaded(artifact=artifact, device=str(getattr(engine, "device", "cpu")))
    lifecycle.advance(TESTING)
    await steps.run("test", lambda: prove(engine, deployment))
    settle()
    return engine


async def _import_and_fetch(
    steps: _Steps, settings: WorkerSettings, settle: Callable[[], None]
) -> tuple[type[Engine], sources.Fetched]:
    def imported() -> type[Engine]:
        engine = import_engine(settings)
        settle()
        return engine

    # A thread of its own, not the loop's: the loop's end waits for those, and a download may take hours.
    aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch")
    try:
        async with asyncio.TaskGroup() as tasks:
            importing = tasks.create_task(steps.run("import", imported), name="import")
            fetching = tasks.create_task(steps.run("fetch", lambda: fetch(settings), thread=aside), name="fetch")
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group  # the first to fail; the other was cancelled for it
    finally:
        aside.shutdown(wait=False, cancel_futures=True)
    return importing.result(), fetching.result()


def import_engine(settings: WorkerSettings) -> type[Engine]:
    """Writes the deployment's files, and imports the engine's class.

    Raises:
        LoadError: as `catalog.resolve` and `catalog.load_class` say.
    """
    deployment = settings.deployment
    _write_files(settings)
    name = catalog.resolve(deployment.spec.runtime.engine, deployment.spec.model.task, model_id=deployment.model_id)
    return catalog.load_class(name, model_id=deployment.model_id)


def fetch(settings: WorkerSettings) -> sources.Fetched:
    """Brings the model's files here and verifies them.

    Raises:
        LoadError: as `sources.parse` and `sources.fetch` say.
    """
    model = settings.deployment.spec.model
    options = sources.FetchOptions(
        cache_dir=settings.cache_dir,
        volumes_dir=settings.volumes_dir,
        model_id=settings.model_id,
        endpoint=model.source.endpoint or "",
        token=settings.source_token.get_secret_value() if settings.source_token else "",
        pins=sources.Pins(model.integrity.sha256, model.integrity.unpinned),
    )
    return sources.fetch(sources.parse(model.source.uri), options)


def engine_context(settings: WorkerSettings, folder: Path) -> EngineContext:
    """What the engine is told."""
    deployment = settings.deployment
    config = deployment.spec.model.config
    return EngineContext(
        folder=folder,
        model_id=deployment.model_id,
        version=deployment.version,
        task=deployment.spec.model.task,
        device=config.device,
        dtype=config.dtype,
        max_length=config.max_length,
        max_tokens=deployment.spec.batching.max_tokens,
        parameters=config.parameters,
    )


def _write_files(settings: WorkerSettings) -> None:
    files = settings.deployment.spec.runtime.files
    if not files:
        return
    if settings.files_dir is None:
        raise LoadFailed(
            f"model {settings.model_id} brings files along, and this worker has no folder for them",
            field="spec.runtime.files",
            remedy="start the worker with the setting files_dir",
        )
    root = settings.files_dir.resolve()
    for file in files:
        path = (root / file.path).resolve()
        if not path.is_relative_to(root):
            raise LoadFailed(
                f"the file {file.path} of model {settings.model_id} leads out of its folder",
                field="spec.runtime.files",
                remedy="give a path without '..'",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content, encoding="utf-8")
    sys.path.insert(0, str(root))


def _unexpected(raised: Exception, step: str, model_id: str) -> LoadError:
    error = raised.raised if isinstance(raised, _Contained) else raised
    kind = HealthInferenceFailed if step == "test" else LoadFailed
    text = str(error).strip()[:500]
    return kind(
        f"model {model_id} failed in the step {step}: {type(error).__name__}" + (f": {text}" if text else ""),
        model_id=model_id,
        remedy="the worker's log has the traceback",
    )
