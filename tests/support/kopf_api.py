"""As much of an API server as kopf's watches ask for: which kinds there are, lists of nothing, watches that say one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import kopf
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelmora.kube.api import PODS, Resource

_VERBS = ["list", "watch", "get"]
_NAMESPACES = Resource("namespaces", "Namespace")  # without it kopf watches nothing


class KopfApi:
    """`offered` is what discovery tells; whatever is watched sees one object."""

    def __init__(self, *offered: Resource) -> None:
        self.offered = set(offered)
        self.watch_status = 200
        self.url = ""

    async def credentials(self) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=self.url)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        match request.path.strip("/").split("/"):
            case ["api"]:
                return web.json_response({"versions": ["v1"]})
            case ["apis"]:
                groups = {one.group: one for one in self.offered if one.group}
                return web.json_response({"groups": [_group(one) for one in groups.values()]})
            case ["api", version]:
                return web.json_response({"resources": self._kinds("", version)})
            case ["apis", group, version]:
                return web.json_response({"resources": self._kinds(group, version)})
        if request.query.get("watch"):
            return await self._watch(request)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    def _kinds(self, group: str, version: str) -> list[dict[str, Any]]:
        every = {*self.offered, _NAMESPACES}
        found = [one for one in every if (one.group, one.version) == (group, version)]
        return [
            {"name": one.plural, "singularName": "", "kind": one.kind, "namespaced": True, "verbs": _VERBS}
            for one in found
        ]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.watch_status != web.HTTPOk.status_code:
            status = {"kind": "Status", "status": "Failure", "message": "watching is forbidden"}
            return web.json_response(status, status=self.watch_status)
        response = web.StreamResponse()
        await response.prepare(request)
        name = request.path.rsplit("/", 1)[-1]
        item = f'{{"metadata": {{"name": "{name}", "namespace": "n", "uid": "{name}", "resourceVersion": "2"}}}}'
        await response.write(f'{{"type": "ADDED", "object": {item}}}\n'.encode())
        await asyncio.sleep(60)
        return response


@asynccontextmanager
async def kopf_api(*offered: Resource) -> AsyncIterator[KopfApi]:
    """Serves until the block ends."""
    api, application = KopfApi(*(offered or (PODS,))), web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    server = TestServer(application, shutdown_timeout=0.1)
    await server.start_server()
    api.url = str(server.make_url("")).rstrip("/")
    try:
        yield api
    finally:
        await server.close()


def _group(one: Resource) -> dict[str, Any]:
    version = {"groupVersion": one.api_version, "version": one.version}
    return {"name": one.group, "versions": [version], "preferredVersion": version}
