"""What Prometheus asks: /metrics, in its text format or, for one that can read them, as OpenMetrics with exemplars."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from modelmora_router.expositions import Together
from modelmora_router.metrics import Meters
from modelmora_router.siblings import Siblings


def metrics(meters: Meters, siblings: Siblings | None = None) -> APIRouter:
    """The route. Also below /api/v1 for those who look there."""
    router = APIRouter(tags=["system"])

    async def scrape(request: Request) -> Response:
        """The numbers of this router for Prometheus."""
        body, content_type = await _exposition(meters, siblings, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    router.add_api_route("/metrics", scrape, methods=["GET"], response_class=Response, summary="Metrics")
    return router


async def _exposition(meters: Meters, siblings: Siblings | None, accept: str) -> tuple[bytes, str]:
    if siblings is None:
        return await meters.exposition(accept)
    number, others = siblings.number, await siblings.families()
    encode, content_type = choose_encoder(accept)

    def encoded(own: Collector) -> bytes:
        parts = {**others, number: own.collect()}
        return encode(Together(dict(sorted(parts.items()))))

    return await meters.written(encoded), content_type
