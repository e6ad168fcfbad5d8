"""A bare grpc.aio server of large answers that it has at hand: as one message, or in parts of 1 MB on a stream.

python large.py ADDRESS BYTES
"""

import sys
from collections.abc import AsyncIterator
from typing import Final

import bare
import grpc

from modelmora.v1 import types_pb2

_PART: Final = 1_000_000
_SIZE: Final = int(sys.argv[2])
_PARTS: Final = _SIZE // _PART
_TENSOR: Final = types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_UINT8, shape=[_SIZE], data=bytes(_SIZE))
WHOLE: Final = types_pb2.InferenceResponse(output={"data": types_pb2.Value(tensor=_TENSOR)})
PARTS: Final = [
    types_pb2.InferenceResponse(part=types_pb2.Part(index=index, last=index == _PARTS - 1, data=bytes(_PART)))
    for index in range(_PARTS)
]


async def infer(_: types_pb2.InferenceRequest, __: object) -> types_pb2.InferenceResponse:
    return WHOLE


async def infer_stream(
    requests: AsyncIterator[types_pb2.InferenceRequest], _: object
) -> AsyncIterator[types_pb2.InferenceResponse]:
    async for _request in requests:
        for part in PARTS:
            yield part


if __name__ == "__main__":
    read, write = types_pb2.InferenceRequest.FromString, types_pb2.InferenceResponse.SerializeToString
    bare.serve(
        sys.argv[1],
        Infer=grpc.unary_unary_rpc_method_handler(infer, read, write),
        InferStream=grpc.stream_stream_rpc_method_handler(infer_stream, read, write),
    )
