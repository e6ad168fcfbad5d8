"""What makes a worker out of date."""

from typing import Any

import pytest

from tests.support.operator_values import deployment, hash_of

GPU = {"mode": "Exclusive", "count": 1}


@pytest.mark.parametrize(
    "edit",
    [
        {"scaling": {"minReplicas": 1, "maxReplicas": 3, "scaleToZeroAfterSeconds": 5}},
        {"queue": {"maxLength": 5, "timeoutSeconds": 7}},
        {"batching": {"maxSize": 1}},
        {"eviction": {"policy": "Never"}},
        {"rollout": {"progressDeadlineSeconds": 5}},
        {"rateLimit": {"requestsPerSecond": 5}},
        {"cache": {"prefetch": True}},
        {"suspend": True},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edit_of_what_no_worker_sees_restarts_nothing(edit: dict[str, Any]) -> None:
    assert hash_of(deployment(**edit)) == hash_of(deployment())


@pytest.mark.parametrize(
    "edit",
    [
        {"model": {"source": {"uri": "package://other/model"}}},
        {"model": {"config": {"maxLength": 7}}},
        {"model": {"config": {"parameters": {"normalize": False}}}},
        {"runtime": {"env": [{"name": "A", "value": "b"}]}},
        {"runtime": {"engine": "python:mine:Engine"}},
        {"resources": {"limits": {"memory": "2Gi"}}},
        {"gpu": GPU},
        {"sharedMemory": {}},
        {"health": {"inference": {"input": {"text": "x"}}}},
        {"health": {"intervalSeconds": 5}},
        {"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}},
    ],
    ids=str,
)
def test_an_edit_of_what_a_worker_sees_changes_it(edit: dict[str, Any]) -> None:
    assert hash_of(deployment(**edit)) != hash_of(deployment())


def test_a_default_that_is_written_out_is_the_same_as_none() -> None:
    assert hash_of(deployment(model={"config": {"device": "auto"}}, gpu={"mode": "None"})) == hash_of(deployment())


def test_it_can_be_part_of_a_name() -> None:
    assert hash_of(deployment()).isalnum()
    assert len(hash_of(deployment())) == 8
