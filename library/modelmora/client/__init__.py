"""The client SDK, over gRPC: `Client` for threads, `AsyncClient` for asyncio. The same methods, the same errors."""

from modelmora.client.aio import AsyncClient
from modelmora.client.messages import InferenceResult, Model, SystemStatus, Timing
from modelmora.client.streams import InferenceRequest
from modelmora.client.sync import Client

__all__ = ["AsyncClient", "Client", "InferenceRequest", "InferenceResult", "Model", "SystemStatus", "Timing"]
