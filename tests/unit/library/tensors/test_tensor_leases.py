"""When the lender hears that it may have its memory back."""

import pytest

from modelmora.errors import InvalidRequest
from modelmora.tensors.leases import Borrowed


def test_the_lender_of_what_is_handed_over_hears_of_the_last_look() -> None:
    borrowed = Borrowed()
    borrowed.begin(1, told=True)
    borrowed.begin(1, told=True)
    assert not borrowed.end(1)
    assert borrowed.end(1)
    assert len(borrowed) == 0


def test_the_lender_of_a_request_hears_nothing_unless_it_asked() -> None:
    borrowed = Borrowed()
    borrowed.begin(1, told=False)
    assert not borrowed.is_awaited(1)
    assert not borrowed.end(1)
    borrowed.begin(2, told=False)
    assert not borrowed.revoke(2)
    assert borrowed.is_awaited(2)
    assert borrowed.end(2)


def test_what_was_revoked_before_it_came_is_over_at_once_and_never_looked_at() -> None:
    borrowed = Borrowed()
    assert borrowed.revoke(3)
    with pytest.raises(InvalidRequest, match="revoked"):
        borrowed.begin(3, told=False)


def test_no_lease_is_0() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Borrowed().begin(0, told=True)
    assert caught.value.context.field == "sharedMemory.lease"


def test_not_more_is_remembered_than_some() -> None:
    borrowed = Borrowed()
    for lease in range(1, 5000):
        borrowed.revoke(lease)
    borrowed.begin(1, told=False)
    with pytest.raises(InvalidRequest):
        borrowed.begin(4999, told=False)
