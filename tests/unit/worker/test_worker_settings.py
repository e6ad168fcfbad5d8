import json
from pathlib import Path

import pytest

from modelmora.errors import InvalidManifest, InvalidSettings
from modelmora_worker.settings import read, socket_path
from tests.support.manifests import manifest

GOOD = {"deployment": manifest(), "worker_id": "w", "address": "unix:/run/w.sock", "cache_dir": "/cache"}


def test_the_json_of_a_parent_is_enough() -> None:
    settings = read(json.dumps(GOOD))
    assert settings.model_id == "org/minilm"
    assert settings.drain_timeout_s == 30


def test_a_pod_sets_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"MODELMORA_WORKER_{name.upper()}", text)
    assert read().model_id == "org/minilm"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"drain_timeout_s": -1}, "drain_timeout_s"),
        ({"worker_id": ""}, "worker_id"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read(json.dumps(GOOD | change))
    assert caught.value.context.field == field


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        read(text)


def test_a_wrong_deployment_is_told_as_a_manifest_is() -> None:
    with pytest.raises(InvalidManifest):
        read(json.dumps(GOOD | {"deployment": {"kind": "ModelDeployment"}}))


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:/run/w.sock", "/run/w.sock"),
        ("unix:///run/w.sock", "/run/w.sock"),
        ("unix:w.sock", "w.sock"),
        ("h:1", None),
    ],
)
def test_the_socket_of_an_address(address: str, path: str | None) -> None:
    assert socket_path(address) == (Path(path) if path else None)
