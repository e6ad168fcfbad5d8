"""Every query of the dashboard and every alert, asked of a real Prometheus that scrapes a real router."""

import asyncio
import json
import math
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml

from modelmora.errors import FeatureUnavailable, InferenceFailed, LoadError, ModelSuspended, SetupError, code_of
from modelmora.spec import LoadKind, LoadReport, MeasuredResources, ModelDeployment
from modelmora.v1 import worker_pb2
from modelmora.wire.status import TABLE, to_rpc
from modelmora_router.gauges import GAUGES
from tests.support.entries import texts_of
from tests.support.fake_worker import echo, fake_worker
from tests.support.helm import CHART
from tests.support.prometheus import Prometheus, program, scraping
from tests.support.routing import Router, condition, deployment, request, running_router

DASHBOARD: Final = json.loads((CHART / "dashboards" / "modelmora.json").read_text())
ALERTS: Final = CHART / "files" / "alerts.yaml"
RULES: Final = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
VARIABLES: Final = {"$__rate_interval": "1m", "$namespace": ".*", "$model": ".*"}
TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
TRACED: Final = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)

BAD: Final = "fail"

# What may be NaN, and why.
MAY_BE_NAN: Final = {"modelmora_gpu_": "there may be no GPU"}


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", filled_in(target["expr"])


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def measured() -> ModelDeployment:
    """A model of which the operator has said all that it can."""
    return deployment(
        status={
            "desired_replicas": 1,
            "ready_replicas": 1,
            "resources": MeasuredResources(memory_bytes=100_000, vram_bytes=1),
            "last_load": LoadReport(seconds={"spawn": 0.1, "load": 0.4}, kind=LoadKind.WARM),
            "conditions": (condition(),),
        }
    )


def respond(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    if texts_of(entry)[0] == BAD:
        return worker_pb2.EntryResult(entry_id=entry.entry_id, error=to_rpc(InferenceFailed("as asked for")))
    return echo(entry)


async def known(
    prometheus: Prometheus, expression: str, *, within_s: float = 30.0
) -> list[tuple[dict[str, str], float]]:
    """The first result of an expression that has a number."""
    async with asyncio.timeout(within_s):
        while True:
            found = await prometheus.query(expression)
            if any(math.isfinite(value) for _, value in found):
                return found
            await asyncio.sleep(0.1)


@asynccontextmanager
async def traffic(router: Router) -> AsyncIterator[None]:
    """Requests until the block ends: good ones, bad ones, and ones for a model that does not exist."""

    async def send() -> None:
        while True:
            await router.inference.Infer(request("a"), metadata=TRACED)
            for bad in (request("a", model_id="none"), request(BAD)):
                with pytest.raises(grpc.aio.AioRpcError):
                    await router.inference.Infer(bad)
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        yield
        sending.cancel()


@pytest.mark.prometheus
@pytest.mark.timeout(300)
@pytest.mark.req("AC-PROD-4", "PERS-DO-3", "PERS-DS-3")
async def test_every_query_of_the_dashboard_and_every_alert_has_a_number(tmp_path: Path) -> None:
    async with running_router(measured()) as router, fake_worker("w1", respond=respond) as worker:
        target = f"127.0.0.1:{router.bound.rest_port}"
        async with scraping(target, tmp_path, rules=ALERTS) as prometheus, asyncio.TaskGroup() as group:
            held = group.create_task(router.http.post("/api/v1/infer/one", json={"input": {"text": "a"}}))
            # A rate needs to have seen the zero.
            await known(prometheus, 'modelmora_queue_depth{priority="NORMAL"} == 1')
            await known(prometheus, "modelmora_hold_duration_seconds_count == 0")
            router.work(worker)
            assert (await held).is_success
            async with traffic(router):
                await every_query_has_a_number(prometheus)
                await every_alert_is_understood(prometheus)
                await known(prometheus, 'sum(modelmora_requests_total{model="", code="MODEL_NOT_FOUND"}) > 0')
                exemplars = await prometheus.get(
                    "query_exemplars", query="modelmora_request_duration_seconds_bucket", start="0", end="9999999999"
                )
    assert exemplars[0]["exemplars"][0]["labels"] == {"trace_id": TRACE}


async def every_query_has_a_number(prometheus: Prometheus) -> None:
    await known(prometheus, "sum(rate(modelmora_requests_total[1m])) > 0")
    for name, query in queries():
        if any(part in query for part in MAY_BE_NAN):
            assert await prometheus.query(query), name
            continue
        try:
            found = await known(prometheus, query, within_s=30)
        except TimeoutError:
            raise AssertionError(f"{name} shows nothing: {query} is {await prometheus.query(query)}") from None
        assert all(math.isfinite(value) for _, value in found), (name, query, found)


async def every_alert_is_understood(prometheus: Prometheus) -> None:
    async with asyncio.timeout(30):
        while True:
            rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
            if all(rule["health"] != "unknown" for rule in rules):
                break
            await asyncio.sleep(0.1)
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in RULES}
    for rule in RULES:
        if not rule["expr"].startswith("absent"):  # an alert is silent; what it compares must not be
            compared = re.split(r" (?:==|>) [0-9.]+\s*$", rule["expr"])[0]
            assert compared != rule["expr"]
            await known(prometheus, compared, within_s=30)


# ---------------------------------------------------------------------------------------------------- alerts

_ONE: Final = 'model_namespace="default",model="one",version="1.0.0",task="txt2embed"'
FIRING: Final = {
    "ModelMoraErrors": {
        f'modelmora_requests_total{{{_ONE},status="success",code="OK"}}': "0+90x30",
        f'modelmora_requests_total{{{_ONE},status="error",code="INFERENCE_FAILED"}}': "0+10x30",
    },
    "ModelMoraQueueNearFull": {
        f'modelmora_queue_depth{{{_ONE},priority="LOW"}}': "50x30",
        f'modelmora_queue_depth{{{_ONE},priority="HIGH"}}': "40x30",
        f"modelmora_queue_limit{{{_ONE}}}": "100x30",
    },
    "ModelMoraModelNotReady": {f'modelmora_condition{{{_ONE},type="Ready",status="False"}}': "1x30"},
    # Half open, with one request under way, whenever it is looked at for the second time.
    "ModelMoraBreakerOpen": {f'modelmora_breaker_state{{{_ONE},state="Open"}}': " ".join(["2 0"] * 15)},
    "ModelMoraRolledBack": {f"modelmora_route_rollbacks_total{{{_ONE}}}": "0x9 1x20"},
    "ModelMoraRouterGone": {},
}
SILENT: Final = {
    "modelmora_active_models": "0x30",
    f'modelmora_requests_total{{{_ONE},status="success",code="OK"}}': "0+90x30",
    f'modelmora_requests_total{{{_ONE},status="error",code="INVALID_REQUEST"}}': "0+10x30",
    f'modelmora_queue_depth{{{_ONE},priority="LOW"}}': "50x30",
    f"modelmora_queue_limit{{{_ONE}}}": "100x30",
    f'modelmora_condition{{{_ONE},type="Ready",status="False"}}': "0x30",
    f'modelmora_breaker_state{{{_ONE},state="Open"}}': "0x30",
    f"modelmora_route_rollbacks_total{{{_ONE}}}": "1x30",  # long ago
}


def fires(room: Path, alert: str, series: dict[str, str]) -> bool:
    """Whether the alert fires after 20 minutes of these series, as promtool says."""
    case = {
        "rule_files": [str(ALERTS)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": "20m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    file = room / "case.yaml"
    file.write_text(yaml.safe_dump(case))
    done = subprocess.run(
        [program("promtool") or "promtool", "test", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # It expects none, and fails with what it got.
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in said, said
    return done.returncode != 0


@pytest.mark.prometheus
def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert {rule["alert"] for rule in RULES} == set(FIRING)


@pytest.mark.prometheus
@pytest.mark.parametrize("alert", FIRING)
def test_an_alert_fires_when_it_should_and_only_then(tmp_path: Path, alert: str) -> None:
    assert fires(tmp_path, alert, FIRING[alert])
    assert not fires(tmp_path, alert, SILENT)


# ------------------------------------------------------------------------------------------- without Prometheus


def test_errors_of_ours_are_those_that_http_would_answer_with_5xx() -> None:
    """But for what people have chosen: a suspended model, a feature of another release."""
    chosen = (ModelSuspended, FeatureUnavailable, LoadError, SetupError)
    ours = sorted(code_of(kind) for kind, codes in TABLE.items() if codes.http >= 500 and not issubclass(kind, chosen))
    texts = [rule["expr"] for rule in RULES] + [query for _, query in queries()]
    found = [match[1] for text in texts for match in re.finditer(r'code=~"([^"]*)"', text)]
    assert len(found) == 2
    assert [text.split("|") for text in found] == [ours, ours]


def test_no_two_panels_have_one_id_or_one_place() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_gauge_is_on_the_dashboard() -> None:
    asked = " ".join(query for _, query in queries())
    assert [gauge.name for gauge in GAUGES if f"modelmora_{gauge.name}" not in asked] == ["loads_awaited"]


def test_every_alert_is_in_the_documents() -> None:
    text = (CHART.parents[1] / "docs" / "observability.md").read_text()
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in text] == []
