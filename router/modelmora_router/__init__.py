"""The data plane: takes requests over REST and gRPC, holds and orders them, and hands them to the workers."""
