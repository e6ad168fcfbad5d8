import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora_worker.engines.passes import CPU, PassLimits, cut

LENGTHS = st.lists(st.integers(0, 60), max_size=12)
LIMITS = st.builds(PassLimits, st.integers(1, 6), st.integers(1, 150), st.integers(0, 80))


def cost(passes: list[list[int]], lengths: list[int], limits: PassLimits) -> int:
    return sum(limits.own_cost + len(each) * max(lengths[index] for index in each) for each in passes)


def allowed(passes: list[list[int]], lengths: list[int], limits: PassLimits) -> bool:
    return all(
        len(each) == 1
        or (len(each) <= limits.max_texts and len(each) * max(lengths[index] for index in each) <= limits.max_tokens)
        for each in passes
    )


@given(lengths=LENGTHS, limits=LIMITS)
@pytest.mark.req("REQ-QUEUE-007a", "RM-2.1i")
def test_every_text_is_in_one_pass_and_no_pass_is_too_large(lengths: list[int], limits: PassLimits) -> None:
    passes = cut(lengths, limits)
    assert sorted(index for each in passes for index in each) == list(range(len(lengths)))
    assert allowed(passes, lengths, limits)
    longest = [lengths[index] for each in passes for index in each]
    assert longest == sorted(longest, reverse=True)


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8), limits=LIMITS)
def test_no_other_cut_is_cheaper(lengths: list[int], limits: PassLimits) -> None:
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    others = []
    for places in itertools.product([False, True], repeat=len(order) - 1):
        ends = [n + 1 for n, cuts in enumerate(places) if cuts] + [len(order)]
        others.append([order[begin:end] for begin, end in itertools.pairwise([0, *ends])])
    best = min(cost(other, lengths, limits) for other in others if allowed(other, lengths, limits))
    assert cost(cut(lengths, limits), lengths, limits) == best


def test_one_long_text_is_no_burden_for_many_short_ones() -> None:
    assert [len(each) for each in cut([10] * 31 + [250], CPU)] == [1, 31]


def test_texts_of_like_length_go_together() -> None:
    assert [len(each) for each in cut([10, 11, 12, 11] * 8, CPU)] == [32]


def test_a_deployments_limit_can_only_be_lower() -> None:
    assert CPU.within(100).max_tokens == 100
    assert CPU.within(10**9) == CPU.within(None) == CPU
