"""The ports on which a router listens: alone, so that a second program there is an error, or shared by its processes.

Processes share a port by SO_REUSEPORT: the kernel gives each new connection to one of those that listen. Any other
program of the same user could join in by the same means, by mistake. So whoever starts the processes finds out first
that the port is free, and then holds it by a socket that never listens.
"""

import errno
import socket
from typing import Final

from modelmora.errors import AddressInUse, InvalidSettings

_BACKLOG: Final = 2048


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket that shares its port with nobody; port 0 takes any free one.

    Raises:
        AddressInUse: another program is there.
        InvalidSettings: the host is no address of this machine.
    """
    return _listening(host, port, setting, shared=False)


def join(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket beside those of the other processes. Raises as `bind` does."""
    return _listening(host, port, setting, shared=True)


def reserve(host: str, port: int, setting: str) -> socket.socket:
    """A socket that holds the port for those who `join` there, until it is closed. Raises as `bind` does."""
    with bind(host, port, setting) as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # lets the next one in while it keeps others out
        held = _bound(host, first.getsockname()[1], setting, shared=True)
    # Needed to bind beside connections of a program before us; from now on it would let in whoever sets it too.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return held


def in_use(host: str, port: int, setting: str) -> AddressInUse:
    """The error for a port that another program has."""
    return AddressInUse(
        f"port {port} of {host} is in use by another program",
        field=setting,
        endpoint=f"{host}:{port}",
        remedy=f"end that program, or choose another port with the setting {setting} (0 takes any free one)",
    )


def _listening(host: str, port: int, setting: str, *, shared: bool) -> socket.socket:
    found = _bound(host, port, setting, shared=shared)
    try:
        found.listen(_BACKLOG)  # only now can no other have the port, the other server of this program included
    except OSError as error:
        found.close()
        raise _refused(host, port, setting, error) from error
    return found


def _bound(host: str, port: int, setting: str, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise _no_address(host, error) from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        found.bind(address)
    except OSError as error:
        found.close()
        raise _refused(host, port, setting, error) from error
    return found


def _refused(host: str, port: int, setting: str, error: OSError) -> AddressInUse | InvalidSettings:
    return in_use(host, port, setting) if error.errno == errno.EADDRINUSE else _no_address(host, error)


def _no_address(host: str, error: OSError) -> InvalidSettings:
    return InvalidSettings(
        f"the router cannot listen on {host!r}: {error.strerror or error}",
        field="host",
        remedy="use 127.0.0.1, 0.0.0.0, or another address of this machine",
    )
