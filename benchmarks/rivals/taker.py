"""A bare grpc.aio server that takes whatever it is sent and answers with a word.

python taker.py ADDRESS
"""

import sys

import bare
import grpc

from modelmora.v1 import types_pb2

_ANSWER = types_pb2.InferenceResponse(output={"text": types_pb2.Value(text=types_pb2.Text(items=["taken"]))})


async def infer(_: types_pb2.InferenceRequest, __: object) -> types_pb2.InferenceResponse:
    return _ANSWER


if __name__ == "__main__":
    bare.serve(
        sys.argv[1],
        Infer=grpc.unary_unary_rpc_method_handler(
            infer, types_pb2.InferenceRequest.FromString, types_pb2.InferenceResponse.SerializeToString
        ),
    )
