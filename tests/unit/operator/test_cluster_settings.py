"""The settings of the program in a cluster."""

import pytest

from modelmora.errors import InvalidSettings
from modelmora.telemetry import LogLevel
from modelmora_operator.cluster_settings import read
from modelmora_operator.sharing import Rules


@pytest.mark.req("REQ-DEPLOY-003")
def test_the_environment_wins_over_defaults_and_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read().initial_replicas, read().namespaces, read().port) == (1, (), 8081)
    monkeypatch.setenv("MODELMORA_OPERATOR_NAMESPACES", '["a", "b"]')
    monkeypatch.setenv("MODELMORA_OPERATOR_LOG_LEVEL", "warning")
    monkeypatch.setenv("MODELMORA_OPERATOR_CACHE_CLAIM_NAME", "")
    assert read().namespaces == ("a", "b")
    assert read().log_level is LogLevel.WARNING
    assert read().cache_claim_name is None
    assert read().policy.sharing is None
    monkeypatch.setenv("MODELMORA_OPERATOR_MAX_WORKERS", "3")
    assert read().policy.sharing == Rules(3)


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "many"), ("NAMESPACES", "a, b"), ("RESYNC_S", "0"), ("WORKER_IMAGE_PULL_POLICY", "x")]
)
def test_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MODELMORA_OPERATOR_{name}", value)
    with pytest.raises(InvalidSettings) as refused:
        read()
    assert name in f"{refused.value.message} {refused.value.context.remedy}".upper()
