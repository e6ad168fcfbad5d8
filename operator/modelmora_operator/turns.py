"""Whose workers are replaced next after an upgrade of ours: one deployment at a time, whatever their number.

An image that does not work so stops at the first model. The one that has begun goes on until it has ended.
"""

from collections.abc import Mapping

from modelmora.control import Key


def next_turn(rolling: Mapping[Key, bool], holder: Key | None = None) -> Key | None:
    """Of the deployments that have workers of an older default image; the value says that it has begun already.

    `holder` has the turn now. It may have begun without its new worker being seen yet, so only one that is seen to have
    begun takes the turn from it.
    """
    begun = [key for key, has_begun in rolling.items() if has_begun]
    candidates = begun or rolling
    return holder if holder in candidates else min(candidates, default=None)
