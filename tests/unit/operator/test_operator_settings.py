"""The operator's settings."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmora_operator.settings import OperatorSettings
from modelmora_operator.sharing import Rules


@pytest.mark.req("REQ-DEPLOY-003")
def test_arguments_win_over_the_environment_and_it_over_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert OperatorSettings().drain_timeout_s == 30
    monkeypatch.setenv("MODELMORA_DRAIN_TIMEOUT_S", "7")
    monkeypatch.setenv("MODELMORA_STATE_DIR", str(tmp_path))
    assert (OperatorSettings().drain_timeout_s, OperatorSettings().state_dir) == (7, tmp_path)
    assert OperatorSettings(drain_timeout_s=9).drain_timeout_s == 9


@pytest.mark.parametrize("field", ["drain_timeout_s", "resync_s", "rescan_s", "load_backoff_first_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_times_are_positive_and_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        OperatorSettings(**{field: value})  # type: ignore[arg-type]


def test_the_policy_carries_the_numbers() -> None:
    policy = OperatorSettings(initial_replicas=1, load_backoff_first_s=2, load_backoff_cap_s=5).policy
    assert (policy.initial_replicas, policy.backoff.first_s, policy.backoff.cap_s) == (1, 2, 5)
    assert policy.sharing is None
    assert OperatorSettings(max_workers=2, turn_s=9).policy.sharing == Rules(2, 9, 30)


def test_a_bound_lets_at_least_one_worker_exist() -> None:
    with pytest.raises(ValidationError):
        OperatorSettings(max_workers=0)
