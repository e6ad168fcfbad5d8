"""Whose workers are replaced next after an upgrade of ours: one deployment at a time, whatever their number.

An image that does not work so stops at the first model. The one that has begun goes on until it has ended.
"""

from collections.abc import Mapping

from modelmora.control import Key


def next_turn(rolling: Mapping[Key, bool]) -> Key | None:
    """Of the deployments that have workers of an older default image; the value says that it has begun already."""
    begun = [key for key, has_begun in rolling.items() if has_begun]
    return min(begun or rolling, default=None)
