"""How many requests of a model are admitted in a while: a token bucket for each model, or for each client of it.

A bucket is one number: the moment at which it will be full again (GCRA). It holds `burst` tokens, gains
`requestsPerSecond` of them a second, and every request takes one. No I/O; `now` is passed in, and a clock that jumps
does no harm: back, a bucket is at most empty; forth, at most full.
"""

from collections import OrderedDict
from typing import Final, TypeAlias

from modelmora.control import Key
from modelmora.errors import RateLimited
from modelmora.spec import RateLimit

_Bucket: TypeAlias = tuple[Key, str]

# A wait of less than this is the rounding of floating-point seconds.
_NOTHING_S: Final = 1e-9


class RateLimits:
    """The buckets of a router, of a bounded number of clients: the one that asked longest ago is forgotten first.

    Who is forgotten finds a full bucket when he comes back. So as many made-up names as are remembered do reset the
    limit of a client; to hold against that, clients must be known by more than a name.
    """

    def __init__(self, *, max_clients: int) -> None:
        self._max_clients = max_clients
        self._full_at: OrderedDict[_Bucket, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Key, client: str, limit: RateLimit, now: float) -> float:
        """Takes a token: 0.0. If there is none: the seconds until there is one."""
        bucket = (key, client if limit.per == "Client" else "")
        token_s = 1.0 / limit.requests_per_second
        span_s = token_s * (limit.burst or limit.requests_per_second)
        full_at = min(max(self._full_at.get(bucket, now), now), now + span_s)
        wait_s = full_at + token_s - (now + span_s)
        admitted = wait_s <= _NOTHING_S
        # A refusal is remembered as well: after a clock has jumped back, an empty bucket must begin to fill now.
        self._remember(bucket, full_at + token_s if admitted else full_at)
        return 0.0 if admitted else wait_s

    def _remember(self, bucket: _Bucket, full_at: float) -> None:
        self._full_at[bucket] = full_at
        self._full_at.move_to_end(bucket)
        if len(self._full_at) > self._max_clients:
            self._full_at.popitem(last=False)


def rate_limited(model_id: str, limit: RateLimit, *, wait_s: float) -> RateLimited:
    """The error of a request for which there is no token."""
    whose = "this client" if limit.per == "Client" else "all clients together"
    return RateLimited(
        f"model {model_id!r} takes {limit.requests_per_second} requests a second of {whose}, which are used up",
        model_id=model_id,
        field="spec.rateLimit",
        remedy="send the request again after the time to wait, or raise spec.rateLimit",
        retry_after_s=wait_s,
    )
