"""Element types: their names on the wire, and the NumPy dtypes that they are. Always little-endian."""

from collections.abc import Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np

from modelmora.v1.types_pb2 import DataType

_WORDS: Final[Mapping[str, type | str]] = {
    "BOOL": "bool",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": ml_dtypes.bfloat16,
    "FP8_E4M3FN": ml_dtypes.float8_e4m3fn,
    "FP8_E5M2": ml_dtypes.float8_e5m2,
}
_USERS_OWN: Final = 2  # of dtype.isbuiltin: registered by a package

DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    DataType.Value(f"DATA_TYPE_{word}"): np.dtype(kind) for word, kind in _WORDS.items()
}
DATATYPES: Final = {dtype: DataType.ValueType(number) for number, dtype in DTYPES.items()}

# NumPy knows these only by their size: they cross its array interface and DLPack as such, and are named anew behind it.
FOREIGN: Final[Mapping[np.dtype[Any], np.dtype[Any]]] = {
    dtype: np.dtype(f"<u{dtype.itemsize}") for dtype in DTYPES.values() if dtype.isbuiltin == _USERS_OWN
}
