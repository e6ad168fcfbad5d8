"""kopf's watches, from which we take nothing but the events: an object that came, changed or went.

kopf runs in a thread with an event loop of its own. It ends all tasks of the loop that it runs in when one of its own
fails (an unknown answer of the API, a definition that is deleted under it), and it takes over the signals; neither must
reach the operator. Whenever it ends it is begun again. It scans neither namespaces nor definitions: which kinds there
are is noticed by our own lists, which begin and end the watches. kopf peers with nobody, posts and patches nothing.

The least rights for what runs here and in `lists` (verbs list and watch; reading /api and /apis is everybody's):

    modelmora.io  modeldeployments   in the namespaces of the models, or in all
    modelmora.io  modelroutes        likewise, by `routes`
    ""            pods               likewise
    coordination  leases             in the namespace of the operator

and for what is written elsewhere: modeldeployments/status and modelroutes/status patch; pods get, create, delete;
events create.
"""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kopf
import structlog
from kopf._cogs.structs.references import Insights  # an argument of kopf.operator, which exports it nowhere
from kubernetes.aio.client import Configuration

from modelmora.kube.api import FORBIDDEN, Resource
from modelmora_operator.backends.view import selector_of

_ERROR_BACKOFFS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_AGAIN_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_WELL_AFTER_S: Final = 30.0
_STOP_S: Final = 0.5
_CLOSE_S: Final = 0.25  # for connections, which aiohttp closes behind its own back
_END_S: Final = 15.0
_WATCH_S: Final = 60  # after it the server ends a watch in order; so long at most is a stalled one blind
_CONNECT_S: Final = 5.0
_MOVES_S: Final = 5.0  # kopf's loop tells so often that it moves
_STUCK_S: Final = 60.0
_REQUEST_S: Final = 30.0

Heard = Callable[[Resource, str | None, Mapping[str, Any]], None]
Credentials = Callable[[], Awaitable[kopf.ConnectionInfo]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """These kinds, in these namespaces; in all without any."""

    resources: tuple[Resource, ...]
    namespaces: Sequence[str] = ()


class Watches:
    """One thread of kopf. `heard` is called in the event loop of `run`, with the type of the event and the object.

    `ended` is called whenever they end: what was missed meanwhile, or why they ended, a list may tell.
    """

    def __init__(
        self,
        watched: Watched,
        credentials: Credentials,
        heard: Heard,
        ended: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._credentials = credentials
        self._heard = heard
        self._ended = ended
        self._clock = clock
        self._moved_at = clock()
        self._problem = "they have not begun"
        self.begun = 0  # how often
        self.refused = False  # the problem is a right that is missing

    @property
    def problem(self) -> str:
        """Empty: they run."""
        still_s = self._clock() - self._moved_at
        stuck = f"nothing has moved there for {still_s:.0f} s" if still_s > _STUCK_S else ""
        return self._problem or stuck

    async def run(self) -> None:
        """Until it is cancelled; begun again whenever kopf ends."""
        attempt, loop = 0, asyncio.get_running_loop()
        while True:
            at = loop.time()
            self.begun += 1
            ended = await self._once()
            attempt = 0 if loop.time() - at > _WELL_AFTER_S else attempt + 1
            self._problem = str(ended) or type(ended).__name__
            self.refused = getattr(ended, "status", None) == FORBIDDEN
            log.warning("watches ended, they begin again", kinds=self._kinds, cause=self._problem)
            self._ended()
            await asyncio.sleep(_AGAIN_S[min(max(attempt - 1, 0), len(_AGAIN_S) - 1)])

    @property
    def _kinds(self) -> str:
        return ", ".join(resource.plural for resource in self._watched.resources)

    async def _once(self) -> BaseException:
        thread = _KopfThread(self._watched, self._credentials, self._heard, self._moved)
        thread.start()
        try:
            return await thread.ended
        finally:
            thread.stop()
            await asyncio.to_thread(thread.join, _END_S)

    def _moved(self) -> None:
        self._problem, self._moved_at, self.refused = "", self._clock(), False


class _KopfThread:
    """From its start to its end; everything is told in the loop in which it was made."""

    def __init__(self, watched: Watched, credentials: Credentials, heard: Heard, moved: Callable[[], None]) -> None:
        self._watched = watched
        self._registry = registry_of(watched, credentials, functools.partial(self._tell, heard))
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[BaseException] = self._loop.create_future()
        self._stop: Callable[[], None] = lambda: None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Soon; nothing that it says is heard any more."""
        self._stopped = True
        self._stop()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        outcome: BaseException = RuntimeError("kopf ended without an error")
        try:
            asyncio.run(self._operate())
        except asyncio.CancelledError:
            outcome = RuntimeError("kopf was stopped")
        except BaseException as error:  # noqa: BLE001 - told to the supervisor, which begins it again
            outcome = error
        self._tell(self._end, outcome)

    async def _operate(self) -> None:
        loop, stop, seen = asyncio.get_running_loop(), asyncio.Event(), Insights()
        loop.set_exception_handler(_handle)
        self._stop = functools.partial(_in_loop, loop, stop.set)
        if self._stopped:
            return
        operating = loop.create_task(self._kopf(stop, seen), name="kopf")
        telling = loop.create_task(self._tell_that_it_moves(seen), name="kopf moves")
        stopping = loop.create_task(_cancelled_after(stop, operating), name="kopf is stopped")
        try:
            done, _ = await asyncio.wait({operating, telling}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.wait({operating}, timeout=_END_S)
            (telling if telling in done else operating).result()
        finally:
            for task in (telling, stopping):
                task.cancel()
            await asyncio.sleep(_CLOSE_S)

    async def _kopf(self, stop: asyncio.Event, seen: Insights) -> None:
        await kopf.operator(
            registry=self._registry,
            settings=kopf_settings(self._watched),
            standalone=True,
            clusterwide=not self._watched.namespaces,
            namespaces=list(self._watched.namespaces),
            stop_flag=stop,
            insights=seen,
        )

    async def _tell_that_it_moves(self, seen: Insights) -> None:
        """Of a kind that it does not find, kopf says nothing and waits for ever: that is no life."""
        await seen.ready_resources.wait()
        await seen.ready_namespaces.wait()
        found = {(resource.group, resource.plural) for resource in seen.watched_resources}
        missing = [one.plural for one in self._watched.resources if (one.group, one.plural) not in found]
        if missing:
            raise LookupError(f"the API server does not offer {', '.join(missing)}")
        while True:
            self._tell(self._moved)
            await asyncio.sleep(_MOVES_S)

    def _end(self, outcome: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._stopped:
            _in_loop(self._loop, what, *arguments)


async def _cancelled_after(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Stopped while it asks which kinds there are, kopf would wait seconds for credentials that nobody gives it."""
    await stop.wait()
    await asyncio.sleep(_STOP_S)
    task.cancel()


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A watch that is stopped while it waits for its first answer trips over itself in kopf (an AssertionError in its
    `request_cancel_callback`); it ends all the same, so that is no error of anybody's.
    """
    if "request_cancel_callback" in str(context.get("message")):
        log.debug("a watch was stopped before it was answered")
    else:
        loop.default_exception_handler(context)


def registry_of(watched: Watched, credentials: Credentials, heard: Heard) -> kopf.OperatorRegistry:
    """Handlers that pass events on, and nothing else."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: object) -> kopf.ConnectionInfo:
        return await credentials()

    for resource in watched.resources:
        decorated = kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id="event")
        decorated(_handler(resource, heard))
    return registry


def _handler(resource: Resource, heard: Heard) -> Callable[..., Awaitable[None]]:
    async def pass_on(event: Mapping[str, Any], **_: object) -> None:
        heard(resource, event["type"], event["object"])

    return pass_on


def kopf_settings(watched: Watched) -> kopf.OperatorSettings:
    """Watches and nothing else, that come back within seconds whatever happened."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = _ERROR_BACKOFFS_S
    settings.networking.connect_timeout = _CONNECT_S
    settings.networking.request_timeout = _REQUEST_S
    settings.watching.server_timeout = _WATCH_S
    settings.watching.client_timeout = _WATCH_S + _CONNECT_S
    for resource in watched.resources:
        if selector := selector_of(resource):
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = selector
    return settings


def quiet_kopf(*, debug: bool) -> None:
    """It logs each attempt of each request, with a traceback; what is wrong our lists say in one line."""
    logging.getLogger("kopf").setLevel(logging.WARNING if debug else logging.CRITICAL)


def credentials_of(configuration: Configuration) -> Credentials:
    """As the port has them; a token that is replaced on disk is read anew."""

    async def login() -> kopf.ConnectionInfo:
        token = await configuration.get_api_key_with_prefix("BearerToken")
        scheme, _, secret = (token or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert or None,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file or None,
            private_key_path=configuration.key_file or None,
            scheme=(scheme or "Bearer") if secret else None,
            token=secret or None,
        )

    return login


def _in_loop(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(what, *arguments)
