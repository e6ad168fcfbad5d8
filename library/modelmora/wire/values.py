"""Between the values that people use (str, bytes, NumPy arrays) and the messages of `modelmora.v1`.

Arrays travel as little-endian bytes in row-major order. What comes from the wire is checked before a view is made:
the size of the data must be exactly what datatype and shape say.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.ma import MaskedArray

from modelmora.errors import InvalidRequest
from modelmora.v1 import types_pb2
from modelmora.wire.dtypes import DATATYPES, DTYPES

Array: TypeAlias = npt.NDArray[Any]
# What a person gives: one text or many, one encoded image or many, an array.
InputValue: TypeAlias = str | bytes | Sequence[str] | Sequence[bytes] | Array
# What an engine gets and gives: always many.
Items: TypeAlias = list[str] | list[bytes] | Array

# Finds the array that a tensor in shared memory stands for; its field is for the error.
Regions: TypeAlias = Callable[[types_pb2.Tensor, str], Array]

_MAX_RANK: Final = 32


# Puts the handle of an array that is in shared memory into its message; False: it is not.
Place: TypeAlias = Callable[[Array, types_pb2.Tensor], bool]


def to_values(
    named: Mapping[str, InputValue], *, field: str = "input", place: Place | None = None
) -> dict[str, types_pb2.Value]:
    """The messages for named values; `place` knows those in shared memory.

    Raises:
        InvalidRequest: a value of a type that cannot travel; `field` is its path.
    """
    return {name: to_value(value, field=f"{field}.{name}", place=place) for name, value in named.items()}


def to_value(value: InputValue, *, field: str = "input", place: Place | None = None) -> types_pb2.Value:
    """The message for one value: a text or texts, an encoded image or images, an array.

    Raises:
        InvalidRequest: a type that cannot travel, or a text that is no Unicode.
    """
    message = types_pb2.Value()
    put_value(value, message, field=field, place=place)
    return message


def put_value(value: InputValue, message: types_pb2.Value, *, field: str = "input", place: Place | None = None) -> None:
    """Writes one value into an empty message where it is: putting a message into another copies all its data.

    Raises:
        InvalidRequest: as `to_value`; the message may then hold a part of the value.
    """
    match value:
        case MaskedArray():
            raise InvalidRequest(f"{field} is a masked array", field=field, remedy="fill it: `array.filled(0)`")
        case np.ndarray() if place and place(value, message.tensor):
            return
        case np.ndarray():
            _put_tensor(value, message.tensor, field=field)
        case str():
            _put_texts([value], message.text, field=field)
        case bytes():
            message.images.items.add(data=value)
        case list() | tuple() if value and all(isinstance(item, str) for item in value):
            _put_texts([str(item) for item in value], message.text, field=field)
        case list() | tuple() if value and all(isinstance(item, bytes) for item in value):
            for item in value:
                message.images.items.add(data=bytes(item))
        case _:
            raise InvalidRequest(
                f"{field} is {_described(value)}",
                field=field,
                remedy="give a text, a list of texts, encoded images as bytes, or a NumPy array",
            )


def _put_texts(items: list[str], message: types_pb2.Text, *, field: str) -> None:
    try:
        message.items.extend(items)
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{field} holds half of a surrogate pair", field=field, remedy="send both halves, or the character itself"
        ) from None


def _described(value: object) -> str:
    if isinstance(value, list | tuple):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a list of {' and '.join(kinds)}" if kinds else "an empty list"
    return f"of type {type(value).__name__}"


def to_tensor(array: Array, *, field: str = "input") -> types_pb2.Tensor:
    """The message for an array.

    Raises:
        InvalidRequest: an element type without a name on the wire, for example object.
    """
    message = types_pb2.Tensor()
    _put_tensor(array, message, field=field)
    return message


def _put_tensor(array: Array, message: types_pb2.Tensor, *, field: str) -> None:
    little = array.dtype.newbyteorder("<")
    datatype = DATATYPES.get(little)
    if datatype is None:
        raise InvalidRequest(
            f"{field} has the dtype {array.dtype}", field=field, remedy="convert it to a real number type"
        )
    message.datatype = datatype
    message.shape.extend(array.shape)
    message.data = array.astype(little, copy=False).tobytes()  # in row-major order, whatever the array's own is


def from_values(
    values: Mapping[str, types_pb2.Value], *, field: str = "input", regions: Regions | None = None
) -> dict[str, Items]:
    """Named values from their messages; `regions` finds those in shared memory.

    Raises:
        InvalidRequest: a message that contradicts itself; `field` is its path.
    """
    return {name: from_value(value, field=f"{field}.{name}", regions=regions) for name, value in values.items()}


def from_value(value: types_pb2.Value, *, field: str = "input", regions: Regions | None = None) -> Items:
    """Texts, encoded images, or a read-only view of the tensor's bytes.

    Raises:
        InvalidRequest: a message without a kind, or a tensor that contradicts itself.
    """
    match value.WhichOneof("kind"):
        case "text":
            return list(value.text.items)
        case "images":
            return [image.data for image in value.images.items]
        case "tensor" if value.tensor.HasField("region"):
            return (regions or _nowhere)(value.tensor, field)
        case "tensor":
            return from_tensor(value.tensor, field=field)
        case _:
            raise InvalidRequest(f"{field} is empty", field=field, remedy="set text, tensor or images")


def _nowhere(_: types_pb2.Tensor, field: str) -> Array:
    raise elsewhere(field)


def elsewhere(field: str) -> InvalidRequest:
    """The error of a tensor in shared memory that cannot be reached from here."""
    return InvalidRequest(
        f"{field} is in shared memory, which cannot be reached from here",
        field=f"{field}.region",
        remedy="send it as bytes, or to the socket of the model's worker, in the same session",
    )


def from_tensor(tensor: types_pb2.Tensor, *, field: str = "input") -> Array:
    """A read-only view of the tensor's bytes, shaped as it says; they are copied once, out of the message.

    Raises:
        InvalidRequest: datatype, shape and size of the data contradict each other.
    """
    dtype = DTYPES.get(tensor.datatype)
    shape = tuple(tensor.shape)
    if dtype is None:
        raise InvalidRequest(f"{field} has no datatype that NumPy knows", field=f"{field}.datatype", remedy="send FP32")
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise InvalidRequest(
            f"{field} has the shape {list(shape)[:8]}", field=f"{field}.shape", remedy="send sizes ≥ 0"
        )
    data = tensor.data  # once: each look at it copies it
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data):
        raise InvalidRequest(
            f"{field} has {len(data)} bytes; its shape and datatype say {expected}",
            field=f"{field}.data",
            remedy="send the elements in row-major order, little-endian, without padding",
        )
    try:
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError:  # no elements, since one size is 0, but others that NumPy cannot multiply
        raise InvalidRequest(
            f"{field} has the shape {list(shape)[:8]}", field=f"{field}.shape", remedy="send smaller sizes"
        ) from None
