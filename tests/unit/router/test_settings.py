"""The router's settings."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmora.errors import InvalidSettings
from modelmora_router.settings import ClusterSettings, ProcessSettings, RouterSettings, read


@pytest.mark.req("REQ-DEPLOY-003")
def test_a_flag_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RouterSettings().rest_port == 8080
    monkeypatch.setenv("MODELMORA_REST_PORT", "8181")
    assert RouterSettings().rest_port == 8181
    assert RouterSettings(rest_port=8282).rest_port == 8282


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        RouterSettings().rest_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rest_port": -1},
        {"grpc_port": 65536},
        {"host": ""},
        {"drain_timeout_s": 0},
        {"retry_after_s": float("nan")},
        {"default_namespace": "A B"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RouterSettings(**wrong)  # type: ignore[arg-type]


def test_settings_of_the_cluster_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_ROUTER_NAMESPACES", '["a", "b"]')
    monkeypatch.setenv("MODELMORA_ROUTER_POD_UID", "")
    settings = read(ClusterSettings)
    assert settings.namespaces == ("a", "b")
    assert settings.pod_uid == ""
    assert settings.pod_name  # of this machine, where no pod is named


@pytest.mark.parametrize(
    ("name", "value"),
    [("MODELMORA_REST_PORT", "x"), ("MODELMORA_ROUTER_NAMESPACES", "a,b"), ("MODELMORA_ROUTER_LOG_LEVEL", "LOUD")],
)
def test_a_wrong_setting_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    kind = ClusterSettings if "ROUTER" in name else RouterSettings
    with pytest.raises(InvalidSettings) as refused:
        read(kind)
    assert name in refused.value.context.remedy


def test_processes_share_out_what_bounds_the_memory_of_all() -> None:
    part = RouterSettings(processes=4, max_held_bytes=8 << 20, max_rate_limited_clients=10).shared_out()
    assert (part.max_held_bytes, part.max_rate_limited_clients) == (2 << 20, 2)
    least = RouterSettings(processes=64, max_held_bytes=1 << 20, max_rate_limited_clients=1).shared_out()
    assert (least.max_held_bytes, least.max_rate_limited_clients) == (1 << 20, 1)
    assert RouterSettings().shared_out() == RouterSettings()


@pytest.mark.parametrize("processes", [0, 65, 1.5])
def test_a_number_of_processes_that_cannot_be_is_refused(processes: float) -> None:
    with pytest.raises(ValidationError):
        RouterSettings(processes=processes)


def test_a_process_reads_what_it_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = ProcessSettings(number=3, folder=tmp_path, parent_pid=42)
    for name, value in told.variables().items():
        monkeypatch.setenv(name, value)
    assert read(ProcessSettings) == told
