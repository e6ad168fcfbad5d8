"""Values come back from the wire as they went, and messages that lie are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelmora.errors import InvalidRequest
from modelmora.v1 import types_pb2
from modelmora.wire.values import from_tensor, from_value, to_value

dtypes = st.sampled_from(["?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8", ">f4", ">i8"])


@given(hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
@pytest.mark.req("RM-1.4f")
def test_arrays_round_trip(array: np.ndarray[Any, Any]) -> None:
    got = from_value(to_value(array))
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, array)
    assert got.shape == array.shape


def test_fortran_order_travels_as_the_same_numbers() -> None:
    array = np.asfortranarray(np.arange(12, dtype="<i4").reshape(3, 4))
    np.testing.assert_array_equal(from_value(to_value(array)), array)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), (("a",), ["a"]), (b"png", [b"png"]), ([b"1", b"2"], [b"1", b"2"])],
    ids=str,
)
def test_texts_and_images_round_trip_as_lists(value: Any, expected: Any) -> None:
    assert from_value(to_value(value)) == expected


@pytest.mark.parametrize(
    "value",
    [[], ["a", b"b"], 7, None, {"a": 1}, np.array([object()]), "\ud800", ["a", "\ud800"]],
    ids=["empty", "mixed", "number", "none", "mapping", "objects", "surrogate", "surrogates"],
)
def test_what_cannot_travel_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_value(value, field="input.text")
    assert caught.value.context.field == "input.text"
    assert caught.value.context.remedy


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_FP32, shape=[2], data=b"1234"), "input.data"),
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_FP32, shape=[-1, -1], data=b"1234"), "input.shape"),
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_FP32, shape=[2**62, 2**62], data=b"1234"), "input.data"),
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_UINT8, shape=[1] * 33, data=b"1"), "input.shape"),
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_FP32, shape=[2**62, 0]), "input.shape"),
        (types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_FP32, shape=[2**62, 2**62, 0]), "input.shape"),
        (types_pb2.Tensor(shape=[1], data=b"1"), "input.datatype"),
        (types_pb2.Tensor(datatype=types_pb2.DataType.ValueType(99), shape=[1], data=b"1"), "input.datatype"),
    ],
    ids=["too-short", "negative", "overflow", "rank", "empty", "empty-overflow", "no-datatype", "unknown-datatype"],
)
def test_a_tensor_that_lies_is_refused(tensor: types_pb2.Tensor, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_tensor(tensor)
    assert caught.value.context.field == field


def test_a_value_without_a_kind_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        from_value(types_pb2.Value())
