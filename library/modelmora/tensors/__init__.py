"""Tensors that several processes of one machine see, without copies.

from modelmora import tensors

with tensors.Listener("/tmp/frames.sock") as listener, listener.accept(timeout_s=10) as session:   # one process
    total = session.receive(timeout_s=10).numpy().sum()

with tensors.connect("/tmp/frames.sock") as session:                                               # another
    session.send(array)
"""

from modelmora.tensors.capabilities import Capabilities, capabilities
from modelmora.tensors.counters import Statistics, statistics
from modelmora.tensors.listening import DEFAULT_QUOTA, Listener, Terms, connect
from modelmora.tensors.pool import Quota
from modelmora.tensors.sessions import Session
from modelmora.tensors.shared_tensor import SharedTensor

__all__ = [
    "DEFAULT_QUOTA",
    "Capabilities",
    "Listener",
    "Quota",
    "Session",
    "SharedTensor",
    "Statistics",
    "Terms",
    "capabilities",
    "connect",
    "statistics",
]
