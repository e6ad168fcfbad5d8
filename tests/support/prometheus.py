"""A real Prometheus for tests: from PATH, or as tools/install-prometheus unpacked it."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

_OWN: Final = Path(__file__).parents[2] / ".make" / "prometheus" / "usr" / "bin"
_START_S: Final = 30.0
_STOP_S: Final = 10.0


def program(name: str = "prometheus") -> str | None:
    """The prometheus, or promtool, of this machine."""
    return shutil.which(name) or (str(_OWN / name) if (_OWN / name).exists() else None)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    http: httpx.AsyncClient

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression is now: labels and value of each series.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        answer = (await self.http.get("/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = (await self.http.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", f"{path}: {answer}"
        return answer["data"]


@asynccontextmanager
async def scraping(target: str, room: Path, *, rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """One that scrapes host:port five times a second until the block ends; its files are in `room`."""
    config = room / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
                "scrape_configs": [{"job_name": "router", "static_configs": [{"targets": [target]}]}],
                "rule_files": [str(rules)] if rules else [],
            }
        )
    )
    address = f"127.0.0.1:{_free_port()}"
    process = await asyncio.create_subprocess_exec(
        program() or "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={room / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10) as http:
            await _ready(process, http)
            yield Prometheus(http)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(_STOP_S):
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, f"prometheus ended with {process.returncode}"
            try:
                if (await http.get("/-/ready")).is_success:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
