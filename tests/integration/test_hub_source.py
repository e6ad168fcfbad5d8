"""hf:// against a server that answers as the Hub does, on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelmora.errors import ChecksumMismatch, FetchFailed, SourceNotFound
from modelmora.sources import Fetched, FetchOptions, Pins, fetch, parse

COMMIT = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "1_Pooling/config.json": b'{"pooling": true}',
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"another format",
    "modeling_evil.py": b"raise SystemExit",
}


class Hub(ThreadingHTTPServer):
    """One public model org/tiny, one gated model org/gated; remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the library
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        self.server.tokens.add(self.headers.get("Authorization"))
        if path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/org/tiny"):
            self._api(path)
        elif path.startswith("/org/tiny/resolve/"):
            self._file(path)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, path: str) -> None:
        if "/revision/" in path and not path.endswith(("/main", "/v1", COMMIT)):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in path:
            tree = [{"type": "file", "path": n, "size": len(b), "oid": _oid(b)} for n, b in FILES.items()]
            self._send(200, json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": name} for name in FILES]
            info = {"_id": "1", "id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(info).encode())

    def _file(self, path: str) -> None:
        name = path.split("/", 5)[5]
        body = FILES.get(name)
        if body is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(200, body, {"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, name="hub")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(uri: str, hub: Hub, cache: Path, pins: Pins | None = None) -> Fetched:
    options = FetchOptions(cache_dir=cache, model_id="org/tiny", endpoint=hub.endpoint, pins=pins or Pins())
    return fetch(parse(uri), options)


@pytest.mark.req("RM-1.3a", "RM-1.3c")
def test_fetches_what_can_be_loaded_safely_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    fetched = get("hf://org/tiny@v1", hub, tmp_path)
    assert set(fetched.sha256) == {"config.json", "model.safetensors", "1_Pooling/config.json"}
    assert (fetched.path / "model.safetensors").read_bytes() == b"weights"
    assert fetched.revision == COMMIT
    assert fetched.sha256["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    assert not any(path.endswith((".bin", ".py")) for path in hub.asked)


@pytest.mark.req("RM-1.3c")
def test_a_second_fetch_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    first = get("hf://org/tiny", hub, tmp_path)
    hub.asked.clear()
    assert get("hf://org/tiny", hub, tmp_path) == first
    assert not any("/resolve/" in path for path in hub.asked)


def test_what_was_fetched_in_whole_serves_while_the_hub_is_away(hub: Hub, tmp_path: Path) -> None:
    first = get(f"hf://org/tiny@{COMMIT}", hub, tmp_path)
    options = FetchOptions(cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
    assert fetch(parse(f"hf://org/tiny@{COMMIT}"), options) == first


def test_a_wrong_file_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=r"model\.safetensors"):
        get("hf://org/tiny", hub, tmp_path, Pins({"model.safetensors": "0" * 64}))


@pytest.mark.parametrize(
    ("uri", "kind", "says"),
    [
        ("hf://org/nothing", SourceNotFound, "org/nothing"),
        ("hf://org/tiny@nowhere", SourceNotFound, "nowhere"),
        ("hf://org/gated", FetchFailed, "org/gated"),
    ],
)
def test_what_the_hub_refuses_is_told_with_a_remedy(
    hub: Hub, tmp_path: Path, uri: str, kind: type[SourceNotFound | FetchFailed], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        get(uri, hub, tmp_path)
    assert caught.value.context.remedy
    assert caught.value.context.model_id == "org/tiny"


def test_a_hub_that_is_away_is_a_failure_that_may_heal(tmp_path: Path) -> None:
    options = FetchOptions(cache_dir=tmp_path, model_id="org/tiny", endpoint="http://127.0.0.1:9")
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1:9"):
        fetch(parse("hf://org/tiny"), options)


@pytest.mark.parametrize(
    ("given", "sent"), [("", None), ("for-this-one", "Bearer for-this-one")], ids=["none", "given"]
)
def test_a_token_of_this_machine_is_not_sent_to_a_server_that_a_manifest_names(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, sent: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-the-machine")
    options = FetchOptions(cache_dir=tmp_path, model_id="org/tiny", endpoint=hub.endpoint, token=given)
    fetch(parse("hf://org/tiny"), options)
    assert hub.tokens == {sent}
