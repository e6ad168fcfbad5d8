"""What the fork server imports for `dummy_worker`."""

import grpc

import modelmora.v1.worker_pb2_grpc

failure = ""

__all__ = ["failure", "grpc", "modelmora"]
