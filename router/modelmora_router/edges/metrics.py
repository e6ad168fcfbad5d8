"""What Prometheus asks: /metrics, in its text format or, for one that can read them, as OpenMetrics with exemplars."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from modelmora_router.metrics import Meters


def metrics(meters: Meters) -> APIRouter:
    """The route. Also below /api/v1 for those who look there."""
    router = APIRouter(tags=["system"])

    async def scrape(request: Request) -> Response:
        """The numbers of this router for Prometheus."""
        body, content_type = await meters.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    router.add_api_route("/metrics", scrape, methods=["GET"], response_class=Response, summary="Metrics")
    return router
