"""The operator of one machine: manifests in, worker processes out, the same decisions in between as in a cluster."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import InvalidManifest
from modelmora.spec import ModelDeployment
from modelmora_operator.backends import client_sockets
from modelmora_operator.backends.forkserver import WarmParent
from modelmora_operator.backends.launching import FreshLauncher, Launcher, WarmLauncher, WorkerProgram
from modelmora_operator.backends.local_routes import LocalRoutes
from modelmora_operator.backends.manifests import ManifestStore
from modelmora_operator.backends.processes import ProcessCluster
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions
from modelmora_operator.controller import Controller
from modelmora_operator.metrics import Metrics
from modelmora_operator.reconcile import Reconciler
from modelmora_operator.settings import OperatorSettings
from modelmora_operator.workqueue import WorkQueue

log = structlog.get_logger(__name__)


async def run(  # noqa: PLR0913 - the wiring of a program
    settings: OperatorSettings,
    control: LocalControl,
    *,
    environment: Mapping[str, str],
    paths: Sequence[Path] = (),
    deployments: Iterable[ModelDeployment] = (),
    program: WorkerProgram | None = None,
    worker_options: Mapping[str, str] | None = None,
    metrics: Metrics | None = None,
    ready: asyncio.Event | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves the deployments of these files and folders, and these, until `stop` is set; then drains all workers.

    `ready` is set once the deployments stand in `control`. Cancelled, it kills its workers instead of draining them.
    `environment` is that of this program: for ${VAR} in manifests, and for workers that are started from nothing.
    `worker_options` are further settings of the workers, by their names there. `metrics` counts what is done.

    Raises:
        AlreadyRunning: another server uses the state directory.
        InvalidSettings: the state directory, or that of the sockets, cannot be used.
        InvalidManifest: there are manifests, but none that can be used.
    """
    with StateFolder(settings.state_dir) as folder:
        store = ManifestStore(paths, fixed=deployments, variables=environment)
        await store.read()
        _refuse_if_nothing_is_good(store)
        launcher = _launcher(settings, program or WorkerProgram(), environment, folder)
        sockets = client_sockets.made(settings.sockets)
        options = WorkerOptions(settings.cache_dir, settings.drain_timeout_s, sockets, worker_options or {})
        sharing = settings.policy.sharing is not None
        cluster = ProcessCluster(control, folder=folder, launcher=launcher, options=options, sharing=sharing)
        routes = LocalRoutes(control)
        _take(store, cluster, routes)
        try:
            async with cluster.running():
                await _operate(
                    settings,
                    cluster,
                    routes,
                    store,
                    launcher,
                    metrics or Metrics(),
                    ready or asyncio.Event(),
                    stop or asyncio.Event(),
                )
        finally:
            await launcher.close()


async def _operate(
    settings: OperatorSettings,
    cluster: ProcessCluster,
    routes: LocalRoutes,
    store: ManifestStore,
    launcher: Launcher,
    metrics: Metrics,
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    queue: WorkQueue[Key] = WorkQueue(concurrency=settings.reconcile_concurrency)
    reconciler = Reconciler(cluster, settings.policy, mark=queue.add)
    metrics.look_at(queue.statistics, cluster.phases)
    controller = Controller(cluster, metrics.timed(reconciler.reconcile), queue, resync_s=settings.resync_s)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(controller.run(), name="operator-controller"),
            tasks.create_task(_follow_files(store, cluster, routes, settings.rescan_s), name="operator-manifests"),
            tasks.create_task(routes.run(), name="operator-routes"),
            tasks.create_task(_warm_up(launcher), name="operator-warm-up"),
        ]
        ready.set()
        await stop.wait()
        log.info("ending workers")
        for task in running:
            task.cancel()


def _launcher(
    settings: OperatorSettings, program: WorkerProgram, environment: Mapping[str, str], folder: StateFolder
) -> Launcher:
    fresh = FreshLauncher(program, environment)
    if not settings.warm_parent:
        return fresh
    return WarmLauncher(program, WarmParent(program.preload, temporary=folder.sockets), fresh)


async def _warm_up(launcher: Launcher) -> None:
    """In the background: the first worker should not pay for it, and the start should not wait."""
    if isinstance(launcher, WarmLauncher):
        await launcher.warm_up()


async def _follow_files(store: ManifestStore, cluster: ProcessCluster, routes: LocalRoutes, rescan_s: float) -> None:
    async for _ in store.changes(rescan_s=rescan_s):
        _take(store, cluster, routes)


def _take(store: ManifestStore, cluster: ProcessCluster, routes: LocalRoutes) -> None:
    """Both in one step: a route may name a deployment of the same edit."""
    cluster.replace_deployments(store.deployments)
    routes.replace(store.routes)


def _refuse_if_nothing_is_good(store: ManifestStore) -> None:
    if store.deployments or not store.problems:
        return
    first, *others = store.problems
    if not others:
        raise first
    every = "; ".join(problem.message for problem in store.problems)
    raise InvalidManifest(every, field=first.context.field, file=first.context.file, remedy=first.context.remedy)
