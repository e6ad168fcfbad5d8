"""A bare grpc.aio server that answers each request with its input: one hop, and nothing of ours.

python echo.py ADDRESS
"""

import sys

import bare
import grpc

from modelmora.v1 import types_pb2


async def infer(request: types_pb2.InferenceRequest, _: object) -> types_pb2.InferenceResponse:
    return types_pb2.InferenceResponse(model_id=request.model_id, output=request.input)


if __name__ == "__main__":
    bare.serve(
        sys.argv[1],
        Infer=grpc.unary_unary_rpc_method_handler(
            infer, types_pb2.InferenceRequest.FromString, types_pb2.InferenceResponse.SerializeToString
        ),
    )
