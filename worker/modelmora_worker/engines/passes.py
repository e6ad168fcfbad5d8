"""Which texts go through a model together. A pass computes as many tokens for each text as its longest has, and costs
something by itself: so texts of like length go together, and a short one does not make the only long one's company.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class PassLimits:
    """Of a device. Tokens are texts × the longest of them, padding included."""

    max_texts: int
    max_tokens: int
    own_cost: int  # of a pass by itself, in tokens that could be computed meanwhile

    def within(self, max_tokens: int | None) -> "PassLimits":
        """With no more tokens than that."""
        return self if max_tokens is None else replace(self, max_tokens=min(max_tokens, self.max_tokens))


# Measured with MiniLM on two cores: 5 ms a pass, 0.14 ms a token, more for a token beyond 4096 of them. For a GPU an
# estimate: it computes thousands of tokens while a pass is launched.
CPU: Final = PassLimits(max_texts=32, max_tokens=4096, own_cost=40)
GPU: Final = PassLimits(max_texts=128, max_tokens=16_384, own_cost=4096)


def cut(lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
    """The cheapest passes: each text's index in exactly one of them, the longest texts first.

    A text longer than `max_tokens` goes alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    sizes = [lengths[index] for index in order]
    # Of the n longest: what their passes cost, and where the last of them begins.
    costs, begins = [0], [0]
    for end in range(1, len(order) + 1):
        cost, begin = _last_pass(costs, sizes, end, limits)
        costs.append(cost)
        begins.append(begin)
    return _passes(order, begins)


def _last_pass(costs: Sequence[int], sizes: Sequence[int], end: int, limits: PassLimits) -> tuple[int, int]:
    """The cost of the first `end` texts, and the place where their last pass best begins."""
    best, best_begin = costs[end - 1] + sizes[end - 1], end - 1
    for begin in range(end - 2, max(0, end - limits.max_texts) - 1, -1):
        tokens = (end - begin) * sizes[begin]
        if tokens > limits.max_tokens:
            break
        if costs[begin] + tokens <= best:
            best, best_begin = costs[begin] + tokens, begin
    return best + limits.own_cost, best_begin


def _passes(order: Sequence[int], begins: Sequence[int]) -> list[list[int]]:
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.append(list(order[begins[end] : end]))
        end = begins[end]
    return passes[::-1]
