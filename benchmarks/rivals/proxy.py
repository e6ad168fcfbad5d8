"""The simplest router: a grpc.aio server that sends each request on to a worker process, one unary call each.

python proxy.py ADDRESS WORKER_ADDRESS
"""

import sys
from functools import cache
from typing import Final

import bare
import grpc.aio

from modelmora.v1 import inference_pb2_grpc, types_pb2

_ANY_SIZE: Final = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@cache
def worker() -> "inference_pb2_grpc.InferenceServiceAsyncStub":
    """One channel for all requests; opened with the first, on the loop that serves."""
    return inference_pb2_grpc.InferenceServiceStub(grpc.aio.insecure_channel(sys.argv[2], options=_ANY_SIZE))


async def infer(request: types_pb2.InferenceRequest, _: object) -> types_pb2.InferenceResponse:
    return await worker().Infer(request)


if __name__ == "__main__":
    bare.serve(
        sys.argv[1],
        Infer=grpc.unary_unary_rpc_method_handler(
            infer, types_pb2.InferenceRequest.FromString, types_pb2.InferenceResponse.SerializeToString
        ),
    )
