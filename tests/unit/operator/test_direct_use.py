"""Callers at the sockets of workers, of whom no router hears, keep a model awake and let it grow."""

from dataclasses import replace
from typing import Any

import pytest

from modelmora.control import Demand
from modelmora.v1 import worker_pb2
from modelmora_operator.backends import worker_reports
from modelmora_operator.cluster import ObservedWorker, Phase
from modelmora_operator.direct_use import lasts_s, together
from modelmora_operator.plan import Plan, Policy, plan
from tests.support.operator_values import NOW, deployment, snapshot, worker

SCALING = {"maxReplicas": 4, "targetConcurrency": 2, "scaleToZeroAfterSeconds": 60}
MODEL = deployment(scaling=SCALING)


def called(number: int = 0, *, ago_s: float = 0.0, load: float = 0.0, **fields: Any) -> ObservedWorker:
    """A worker whose own socket was used that long ago."""
    return worker(MODEL, number, direct_used_at=NOW - ago_s, direct_load=load, **fields)


def planned(*workers: ObservedWorker, load: float | None = None, after_s: float = 0.0) -> Plan:
    return plan(snapshot(MODEL, *workers, load=load), NOW + after_s, Policy())


def told(before: ObservedWorker, now: float = NOW, **said: Any) -> ObservedWorker:
    update = worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_SERVING, **said)
    return worker_reports.updated(before, update, now)


@pytest.mark.req("US2")
def test_a_model_that_is_called_at_its_socket_is_not_idle() -> None:
    assert planned(worker(MODEL)).stop
    assert planned(called(ago_s=59)).stop == ()
    assert planned(called(ago_s=61)).stop
    assert planned(called(ago_s=3600, load=0.5)).stop == ()


def test_it_is_looked_at_again_when_its_idle_time_is_over() -> None:
    idle = called(ago_s=20)
    wait_s = planned(idle).requeue_after_s
    assert wait_s == 40
    assert planned(idle, after_s=wait_s).stop == (idle.worker_id,)


def test_calls_at_sockets_and_through_routers_count_together() -> None:
    assert planned(called(load=2.5)).start
    assert not planned(called(load=1.0), load=1.0).start
    assert len(planned(called(load=3.0), load=3.0).start) == 2


def test_while_it_is_called_it_is_as_urgent_as_its_requests_are_by_default() -> None:
    spec = deployment(queue={"defaultPriority": "HIGH"}, scaling=SCALING).spec
    routers = Demand(1.0, NOW - 9, urgency=3)
    both = together(routers, [called(load=1.0)], spec, NOW)
    assert both == Demand(2.0, NOW, urgency=2)
    assert together(routers, [called(ago_s=5)], spec, NOW) == replace(routers, last_used_at=NOW - 5)
    assert together(replace(routers, urgency=1), [called(load=1.0)], spec, NOW) == Demand(2.0, NOW, urgency=1)
    assert together(None, [called(load=1.0)], spec, NOW) == Demand(1.0, NOW, urgency=2)


def test_a_worker_that_ends_counts_no_more() -> None:
    assert together(None, [called(load=1.0, terminating=True)], MODEL.spec, NOW) is None
    assert lasts_s([called(terminating=True)], MODEL.spec, NOW) is None


def test_a_new_count_is_a_use_at_the_time_it_is_heard_of() -> None:
    fresh = worker(MODEL, phase=Phase.STARTING)
    assert told(fresh).direct_used_at is None
    once = told(fresh, direct_requests=3)
    assert (once.direct_used_at, once.direct_requests) == (NOW, 3)
    assert told(once, NOW + 5, direct_requests=3).direct_used_at == NOW
    assert told(once, NOW + 5, direct_requests=4).direct_used_at == NOW + 5
    assert told(once, NOW + 5, direct_requests=3, direct_load=1.0).direct_used_at == NOW + 5
    restarted = told(once, NOW + 5, direct_requests=1)
    assert (restarted.direct_used_at, restarted.direct_requests) == (NOW + 5, 1)


@pytest.mark.parametrize("load", [-1.0, float("nan"), float("inf")])
def test_a_load_that_cannot_be_is_none(load: float) -> None:
    assert told(worker(MODEL), direct_load=load).direct_load == 0.0
