"""A gRPC server at one address."""

from typing import Final

import grpc

from modelmora.errors import AddressInUse

# Routers ping, to notice a node that is cut off; gRPC's servers take that for an attack unless told.
_PINGED: Final = (("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000), ("grpc.http2.max_ping_strikes", 0))


def listener(
    address: str, *, max_sent_bytes: int | None = None, max_received_bytes: int | None = None
) -> grpc.aio.Server:
    """A server that is to be started; the bounds are those of one message.

    Raises:
        AddressInUse: it cannot listen there.
    """
    bounds = {"grpc.max_send_message_length": max_sent_bytes, "grpc.max_receive_message_length": max_received_bytes}
    sizes = [(name, size) for name, size in bounds.items() if size is not None]
    server = grpc.aio.server(options=[*sizes, *_PINGED, ("grpc.so_reuseport", 0)])
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _in_use(address) from error
    if not bound:
        raise _in_use(address)
    return server


def _in_use(address: str) -> AddressInUse:
    return AddressInUse(
        f"the worker cannot listen on {address}",
        field="address",
        endpoint=address,
        remedy="name a free port, or a socket in an existing folder with a path under 108 characters",
    )
