"""A tensor in shared memory, as people use it."""

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from modelmora.errors import InvalidRequest
from modelmora.tensors.layouts import Layout
from modelmora.tensors.looks import behind, seen
from modelmora.wire.dtypes import FOREIGN


class SharedTensor:
    """An array over shared memory. NumPy, PyTorch and whoever speaks DLPack see its memory itself, without a copy.

    What another process handed over is not to be written; who writes nevertheless, by PyTorch, changes a copy of the
    page that only this process sees. The memory is released when neither the tensor nor any array over it is left.

    Attributes:
        tag: what the other process sent with it.
    """

    def __init__(self, array: "npt.NDArray[Any]", *, tag: bytes = b"") -> None:
        self._array: npt.NDArray[Any] | None = array
        self.tag = tag

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        if self._array is None:
            return "SharedTensor(released)"
        return f"SharedTensor(shape={self.shape}, dtype={self.dtype})"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.numpy().dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numpy().shape

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return self.numpy().strides

    @property
    def nbytes(self) -> int:
        """Of the elements."""
        return self.numpy().nbytes

    @property
    def writable(self) -> bool:
        return bool(self.numpy().flags.writeable)

    def numpy(self) -> "npt.NDArray[Any]":
        """The array; it, and all that is made of it, keeps the memory.

        Raises:
            InvalidRequest: the tensor was released.
        """
        if self._array is None:
            raise InvalidRequest("the tensor was released", remedy="keep it, or an array over it, while you use it")
        return self._array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> "npt.NDArray[Any]":  # noqa: FBT001 - NumPy's
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **asked: Any) -> object:  # noqa: ANN401 - as the protocol has them
        return self._writable().__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._writable().__dlpack_device__()

    def _writable(self) -> "npt.NDArray[Any]":
        """For DLPack, of which most readers know no memory that is not to be written."""
        array = self.numpy()
        look = behind(array)
        dtype = FOREIGN.get(array.dtype, array.dtype)
        assert look, "every shared tensor is over shared memory"  # noqa: S101
        return seen(look, Layout(dtype, array.shape, array.strides), look.offset_of(array), writable=True)

    def release(self) -> None:
        """Forgets the array; the memory is released with the last one that was made of it. May be called again."""
        self._array = None
