"""The port to the Kubernetes API: JSON objects in and out, a deadline for every call, errors in the server's words."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

import aiohttp
import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration

from modelmora.errors import InvalidSettings, ServerUnavailable
from modelmora.spec.schema import API_GROUP

Object: TypeAlias = dict[str, Any]

FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410
_REFUSED: Final = 400
_APPLY: Final = "application/apply-patch+yaml"
_JSON: Final = "application/json"
_PAGE: Final = 500  # objects of one answer to a list
# After it the server ends a watch in order, and it is begun anew where it stood: that costs one small request. Short,
# because a watch whose server is stalled looks like one to which nothing happens: so long can it be blind, no longer.
_WATCH_S: Final = 30
_WATCH_GRACE_S: Final = 5.0
# A network that is cut says nothing either: the system asks the other side, and gives it up after 8 + 3 * 3 seconds.
_PROBE_AFTER_S: Final = 8
_PROBE_EVERY_S: Final = 3
_PROBES: Final = 3
_PROBING: Final = tuple(
    (getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_S),
        ("TCP_KEEPINTVL", _PROBE_EVERY_S),
        ("TCP_KEEPCNT", _PROBES),
    )
    if hasattr(socket, name)  # not on every system; the watch's own end serves there
)
# What the loader raises for a kubeconfig that is none; of a file in another form it notices only that it stumbles.
_UNUSABLE: Final = (kubernetes_config.ConfigException, yaml.YAMLError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, and where it lives."""

    plural: str
    kind: str
    version: str = "v1"
    group: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in a namespace, or of all there are."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, subresource]
        return "/".join(quote(part, safe="/") for part in parts if part)


DEPLOYMENTS: Final = Resource("modeldeployments", "ModelDeployment", "v1alpha1", API_GROUP)
ROUTES: Final = Resource("modelroutes", "ModelRoute", "v1alpha1", API_GROUP)
PODS: Final = Resource("pods", "Pod")
EVENTS: Final = Resource("events", "Event")
LEASES: Final = Resource("leases", "Lease", group="coordination.k8s.io")


class KubeError(Exception):
    """The API server refused; `status` is the HTTP status, `reason` its CamelCase word, the text is its own."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects as of one moment."""

    items: tuple[Object, ...]
    resource_version: str


OPENED: Final = "OPENED"  # not a word of Kubernetes: a watch may say nothing for as long as nothing changes


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object: ADDED, MODIFIED, DELETED or BOOKMARK. The first is OPENED: the watch is there."""

    type: str
    object: Object


class Kube:
    """One connection to one API server. Every call ends within `timeout_s`, a watch a little after `watch_s`.

    Every method raises KubeError if the server refuses, and ServerUnavailable if it cannot be reached in time.
    """

    def __init__(self, client: ApiClient, *, timeout_s: float = 10.0, watch_s: int = _WATCH_S) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._watch_s = watch_s

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, *, timeout_s: float = 10.0, watch_s: int = _WATCH_S) -> Self:
        """To the cluster that the file names; without one, to the cluster whose pod this program runs in.

        Raises:
            InvalidSettings: there is no such file, or this is no pod.
        """
        configuration = Configuration()
        configuration.client_side_validation = False
        configuration.connection_pool_maxsize = 0  # no limit: every watch holds one, and a write must not wait for them
        try:
            if kubeconfig is None:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                await kubernetes_config.load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration
                )
            return cls(ApiClient(configuration), timeout_s=timeout_s, watch_s=watch_s)
        except (*_UNUSABLE, OSError, ValueError) as error:
            raise InvalidSettings(
                f"there is no way to a Kubernetes API: {error}",
                field="kubeconfig",
                file=str(kubeconfig or ""),
                remedy="name a kubeconfig file by the setting kubeconfig, or run in a pod with a service account",
            ) from error

    @property
    def configuration(self) -> Configuration:
        """Where the API server is, and by which credentials it is reached: for another client of this program."""
        configuration: Configuration = self._client.configuration
        return configuration

    async def close(self) -> None:
        await self._client.close()

    # -------------------------------------------------------------------------------------------- reading

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return await self._call("GET", resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str | None = None, *, selector: str = "") -> Listed:
        """All of a namespace; of every namespace without one. In pages, so that no answer is too large."""
        items: list[Object] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", resource.path(namespace), query)
            items += page.get("items") or []
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return Listed(tuple(items), page["metadata"].get("resourceVersion", ""))

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, selector: str = "", resource_version: str
    ) -> AsyncIterator[Event]:
        """What changes after that version, until the server ends the watch; OPENED at first.

        A KubeError of 410: list anew.
        """
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_s),
        }
        response = await self._send("GET", resource.path(namespace), query, until_end=True)
        _probe_silence(response)
        try:
            yield Event(OPENED, {})
            async for line in response.content:
                if line.strip():
                    yield _event(json.loads(line))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: a line that was cut
            raise _unreachable(error, self._client.configuration.host) from error
        finally:
            response.close()

    # -------------------------------------------------------------------------------------------- writing

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        return await self._call("POST", resource.path(namespace), body=body)

    async def apply(
        self, resource: Resource, namespace: str, name: str, body: Object, *, manager: str, subresource: str = ""
    ) -> Object:
        """Server-side apply: from now on these fields are as in `body`, and the manager's."""
        whole = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            **body,
            "metadata": {**body.get("metadata", {}), "name": name, "namespace": namespace},
        }
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("PATCH", resource.path(namespace, name, subresource), query, whole, kind=_APPLY)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None
    ) -> Object | None:
        """Begins to delete; None: it is gone already. With a uid, only the object that had it, never a successor."""
        options: Object = {"preconditions": {"uid": uid}} if uid else {}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            return await self._call("DELETE", resource.path(namespace, name), body=options)
        except KubeError as error:
            if error.status == NOT_FOUND or (error.status == CONFLICT and uid):
                return None
            raise

    # -------------------------------------------------------------------------------------------- the wire

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        kind: str = _JSON,
    ) -> Object:
        response = await self._send(method, path, query, body, kind=kind)
        try:
            answer: Object = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _unreachable(error, self._client.configuration.host) from error
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        kind: str = _JSON,
        until_end: bool = False,
    ) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(
            total=None if until_end else self._timeout_s,
            sock_connect=self._timeout_s,
            sock_read=self._watch_s + _WATCH_GRACE_S,
        )
        said = [(name, value) for name, value in (query or {}).items() if value]
        try:
            method, url, headers, sent_body, _ = await self._client.param_serialize(
                method, path, query_params=said, header_params={"Content-Type": kind}, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            async with asyncio.timeout(self._timeout_s):  # for the answer's first line, also of a watch
                sent = await self._client.rest_client.request(
                    method, url, headers=headers, body=sent_body, _request_timeout=timeout
                )
        except (aiohttp.ClientError, kubernetes_config.ConfigException, TimeoutError, OSError) as error:
            # A ConfigException here: the token, which is read anew every minute, was not whole at that moment.
            raise _unreachable(error, self._client.configuration.host) from error
        response: aiohttp.ClientResponse = sent.response
        if response.status >= _REFUSED:
            raise await _refused(response)
        return response


def _probe_silence(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    open_socket = connection.transport.get_extra_info("socket") if connection and connection.transport else None
    if open_socket is None:
        return
    open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBING:
        open_socket.setsockopt(socket.IPPROTO_TCP, option, value)


def _event(said: Object) -> Event:
    if said["type"] == "ERROR":
        raise _error(said["object"])
    return Event(said["type"], said["object"])


async def _refused(response: aiohttp.ClientResponse) -> KubeError:
    try:
        said = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        said = None
    status = said if isinstance(said, dict) else {}
    return _error({"code": response.status, "reason": response.reason or "", **status})


def _error(status: Object) -> KubeError:
    code, reason = int(status.get("code") or 0), str(status.get("reason") or "")
    return KubeError(code, reason, str(status.get("message") or reason or f"HTTP status {code}"))


def _unreachable(error: BaseException, host: str) -> ServerUnavailable:
    cause = str(error) or type(error).__name__
    return ServerUnavailable(
        f"the Kubernetes API cannot be reached: {cause}", endpoint=host, remedy="wait: it is tried again"
    )
