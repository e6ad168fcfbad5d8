"""The deployments and routes of local mode: YAML files and folders, read again whenever they change.

Changes are heard from the system, put together over a moment (an editor writes a file in several steps), and the files
are read again every few seconds anyway, since not every file system tells. The folder of a file is watched rather than
the file: editors replace files by renaming.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog
import watchfiles

from modelmora.control import Key
from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora.spec.cluster_only import cluster_only_fields
from modelmora.spec.manifests import SUFFIXES, Document, load
from modelmora_operator.backends.merging import Merge, RouteStore, Store, merge

_DEBOUNCE_MS = 200
_STEP_MS = 50

log = structlog.get_logger(__name__)


class ManifestStore:
    """Reads `paths` and holds what was good in them; `fixed` are deployments that stand in no file."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        fixed: Iterable[ModelDeployment] = (),
        variables: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        watch: Callable[..., AsyncIterator[object]] = watchfiles.awatch,
    ) -> None:
        self._paths = tuple(path.absolute() for path in paths)
        self._fixed = [Document(Path("command line"), number, resource=d) for number, d in enumerate(fixed, start=1)]
        self._variables = variables
        self._clock = clock
        self._watch = watch
        self._deaf = False  # and it has been said
        self._merge = Merge({})

    @property
    def deployments(self) -> dict[Key, ModelDeployment]:
        """The good ones."""
        return {key: stored.resource for key, stored in self._merge.store.items()}

    @property
    def routes(self) -> dict[Key, ModelRoute]:
        """The good ones."""
        return {key: stored.resource for key, stored in self._merge.routes.items()}

    @property
    def problems(self) -> tuple[InvalidManifest, ...]:
        """What could not be used when the files were read last."""
        return self._merge.problems

    async def read(self) -> bool:
        """Reads all files again. Whether anything changed."""
        documents = await asyncio.to_thread(load, self._paths, self._variables)
        before = self._merge
        self._merge = merge(
            before.store,
            [*self._fixed, *documents],
            now=self._clock(),
            new_uid=lambda: str(uuid.uuid4()),
            routes=before.routes,
        )
        _tell(before, self._merge)
        return (before.store, before.routes) != (self._merge.store, self._merge.routes)

    async def changes(self, *, rescan_s: float) -> AsyncIterator[None]:
        """After each change of what they say, once they are read. Ends with its task."""
        async for _ in self._something_happened(rescan_s):
            if await self.read():
                yield

    async def _something_happened(self, rescan_s: float) -> AsyncIterator[None]:
        while self._paths:
            folders = {path if path.is_dir() else path.parent for path in self._paths}
            there = [folder for folder in folders if folder.is_dir()]
            try:
                async for _ in self._heard(there, rescan_s):
                    yield
            except (OSError, RuntimeError) as error:  # RuntimeError: the system has no more watches to give
                if not self._deaf:
                    self._deaf = True
                    log.warning("changes of manifests are not heard, only found", every_s=rescan_s, cause=str(error))
            await asyncio.sleep(rescan_s)
            yield

    async def _heard(self, folders: Sequence[Path], rescan_s: float) -> AsyncIterator[None]:
        if not folders:
            return
        heard = self._watch(
            *folders,
            watch_filter=self._concerns,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=round(rescan_s * 1000),
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        async for _ in heard:
            yield

    def _concerns(self, _: watchfiles.Change, path: str) -> bool:
        return Path(path).suffix in SUFFIXES or Path(path) in self._paths


def _tell(before: Merge, now: Merge) -> None:
    """Logs what is new, once."""
    known = {str(problem) for problem in before.problems}
    for problem in now.problems:
        if str(problem) not in known:
            context = problem.context
            log.error(
                "manifest not used",
                file=context.file,
                field=context.field,
                model=context.model_id,
                message=problem.message,
                remedy=context.remedy,
            )
    for warning in set(now.warnings) - set(before.warnings):
        log.warning("manifest skipped", message=warning)
    _tell_changes(before.store, now.store)
    _tell_changes_of_routes(before.routes, now.routes)


def _tell_changes(before: Store, now: Store) -> None:
    for key in now.keys() - before.keys():
        deployment = now[key].resource
        told = log.info if before else log.debug  # those of the start are listed when the server is ready
        told("deployment added", model=deployment.model_id, key=str(key))
        if fields := cluster_only_fields(deployment):
            log.warning("only a cluster honours these fields", model=deployment.model_id, fields=fields)
    for key in before.keys() - now.keys():
        log.info("deployment removed", model=before[key].resource.model_id, key=str(key))
    for key in now.keys() & before.keys():
        deployment = now[key].resource
        if deployment.metadata.generation != before[key].resource.metadata.generation:
            log.info("deployment changed", model=deployment.model_id, generation=deployment.metadata.generation)


def _tell_changes_of_routes(before: RouteStore, now: RouteStore) -> None:
    """What comes of a route, its status tells."""
    for key in before.keys() - now.keys():
        log.info("route removed", model=before[key].resource.spec.model_id, key=str(key))
    for key in now.keys() & before.keys():
        route = now[key].resource
        if route.metadata.generation != before[key].resource.metadata.generation:
            log.info("route changed", model=route.spec.model_id, generation=route.metadata.generation)
