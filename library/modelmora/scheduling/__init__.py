"""The order in which requests are worked on, and which of them go together: in the router, and inside the worker."""

from modelmora.scheduling.batching import Arrivals, BatchLimits, Room, Weighed, form, wait_s
from modelmora.scheduling.queueing import PriorityQueue, Queued

__all__ = ["Arrivals", "BatchLimits", "PriorityQueue", "Queued", "Room", "Weighed", "form", "wait_s"]
