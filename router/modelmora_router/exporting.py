"""Whether spans are exported: only where an endpoint is named. The library for it is only then looked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from modelmora.errors import MissingDependency
from modelmora_router.settings import TracingSettings
from modelmora_router.spans import SpanSink

_PACKAGES: Final = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp")


@contextmanager
def exporting(settings: TracingSettings) -> Iterator[SpanSink | None]:
    """Where spans go while the block runs; None where nobody wants any.

    Raises:
        MissingDependency: they are wanted, and the extra is not installed.
    """
    if not settings.exporter_otlp_endpoint:
        yield None
        return
    if not all(map(find_spec, _PACKAGES)):
        raise MissingDependency(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed",
            remedy="pip install 'modelmora[tracing]', or unset the variable",
        )
    from modelmora_router.otlp import opened  # noqa: PLC0415 - takes a quarter of a second, and may not be there

    with opened(settings) as spans:
        yield spans
