"""A gRPC server at one address."""

from typing import Final

import grpc

from modelmora.errors import AddressInUse

# Routers ping, to notice a node that is cut off; gRPC's servers take that for an attack unless told.
_PINGED: Final = (("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000), ("grpc.http2.max_ping_strikes", 0))


def listener(address: str, *, max_message_bytes: int | None = None) -> grpc.aio.Server:
    """A server that is to be started.

    Raises:
        AddressInUse: it cannot listen there.
    """
    size = max_message_bytes
    sizes = [] if size is None else [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
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
