"""What a handle may say, and what it says of an array."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmora.errors import InvalidRequest
from modelmora.tensors.layouts import MAX_RANK, Layout, from_message, like, to_message
from modelmora.v1 import types_pb2
from modelmora.v1.types_pb2 import Region, Tensor
from modelmora.wire.dtypes import DTYPES

FP32 = types_pb2.DATA_TYPE_FP32
SIZE = 4096


def handle(shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (), offset: int = 0, **more: Any) -> Tensor:
    return Tensor(datatype=FP32, shape=shape, region=Region(arena=1, offset=offset, strides=strides), **more)


@pytest.mark.req("EDGE-5", "ENT-4")
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4), np.float32),
        np.asfortranarray(np.zeros((2, 3, 4))),
        np.zeros((8, 8), np.int64)[::2, 1::3],
        np.zeros((0, 5)),
        np.float16(1.5) * np.ones(()),
        np.zeros((3,), ml_dtypes.bfloat16),
        np.zeros((3,), ml_dtypes.float8_e4m3fn),
        np.zeros((4, 5), bool).T,
    ],
    ids=["rows", "columns", "strided", "nothing", "scalar", "bf16", "fp8", "turned"],
)
def test_a_handle_says_dtype_shape_and_strides(array: np.ndarray[Any, Any]) -> None:
    layout = Layout(array.dtype, array.shape, array.strides)
    read = from_message(to_message(layout, arena=1, offset=64), SIZE, field="t")
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    if array.size:
        assert read.strides == array.strides
        assert read.extent_bytes == np.lib.array_utils.byte_bounds(array)[1] - np.lib.array_utils.byte_bounds(array)[0]


@pytest.mark.req("US3-IT", "ENT-4")
def test_a_handle_is_small_whatever_the_tensor() -> None:
    strides = tuple(2**40 >> place for place in range(MAX_RANK))
    message = to_message(Layout(np.dtype("<f8"), (1,) * MAX_RANK, strides), arena=2**32 - 1, offset=2**60)
    assert len(message.SerializeToString()) < 1024


@pytest.mark.req("EDGE-5")
def test_a_copy_keeps_the_order_of_its_array_if_that_has_one() -> None:
    array = np.zeros((2, 3))
    assert like(array).strides == (24, 8)
    assert like(np.asfortranarray(array)).strides == (8, 16)
    assert like(array[:, ::2]).strides == (16, 8)
    assert like(array[::-1]).strides == (24, 8)
    assert like(array.astype(">f8")).dtype == np.dtype("<f8")


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (handle(offset=SIZE), "t.region.offset"),
        (handle(offset=SIZE - 20), "t.region.offset"),
        (handle(offset=2**64 - 4), "t.region.offset"),
        (handle(offset=2), "t.region.offset"),
        (handle(shape=(1025,)), "t.region.offset"),
        (handle(shape=(2**62, 2)), "t.shape"),
        (handle(shape=(2**62, 0)), "t.shape"),
        (handle(shape=(-1,)), "t.shape"),
        (handle(shape=(1,) * (MAX_RANK + 1)), "t.shape"),
        (handle(strides=(12, -4)), "t.region.strides"),
        (handle(strides=(12, 2)), "t.region.strides"),
        (handle(strides=(0, 4)), "t.region.strides"),
        (handle(strides=(8, 4)), "t.region.strides"),
        (handle(strides=(4, 4)), "t.region.strides"),
        (handle(strides=(12,)), "t.region.strides"),
        (handle(strides=(2**60, 4)), "t.region.offset"),
        (handle(data=b"x" * 24), "t.data"),
        (Tensor(shape=(1,), region=Region(arena=1)), "t.datatype"),
    ],
)
def test_what_cannot_be_true_is_refused_by_its_field(tensor: Tensor, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_message(tensor, SIZE, field="t")
    assert caught.value.context.field == field


def test_the_last_byte_of_an_arena_may_be_used() -> None:
    assert from_message(handle(offset=SIZE - 24), SIZE, field="t").size_bytes == 24
    assert from_message(handle(shape=(0,), offset=SIZE), SIZE, field="t").extent_bytes == 0


numbers = st.one_of(st.integers(-8, 64), st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([0, *DTYPES, 99]),
    st.lists(numbers, max_size=5),
    st.lists(numbers, max_size=5),
    st.one_of(st.integers(0, SIZE + 8), st.integers(0, 2**64 - 1)),
)
def test_whatever_a_stranger_says_no_element_is_outside_and_none_is_seen_twice(
    datatype: int, shape: list[int], strides: list[int], offset: int
) -> None:
    tensor = Tensor(shape=shape, region=Region(arena=1, offset=offset, strides=strides))
    tensor.datatype = datatype  # type: ignore[assignment]  # numbers that have no name too
    try:
        layout = from_message(tensor, SIZE, field="t")
    except InvalidRequest:
        return
    count = math.prod(layout.shape)
    assert count * layout.dtype.itemsize <= SIZE
    memory = np.zeros(SIZE, np.uint8)
    array: np.ndarray[Any, Any] = np.ndarray(layout.shape, f"V{layout.dtype.itemsize}", memory, offset, layout.strides)
    every = np.ndindex(*layout.shape) if count else ()
    starts = {offset + sum(map(int.__mul__, index, layout.strides)) for index in every}
    assert len(starts) == count == array.size
    assert all(start + layout.dtype.itemsize <= SIZE for start in starts)
