"""A grpc.aio server of InferenceService with nothing around it."""

import asyncio
from typing import Any, TypeAlias

import grpc.aio
import uvloop

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def serve(address: str, **methods: Handler) -> None:
    """Serves these methods until the process is ended."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(address, methods))


async def _serve(address: str, methods: dict[str, Handler]) -> None:
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)])
    handler = grpc.method_handlers_generic_handler("modelmora.v1.InferenceService", methods)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()
