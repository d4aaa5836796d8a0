"""aiobs for gRPC: one trace and one request on both sides of a call.

from aiobs_grpc import GrpcInstrumentor

GrpcInstrumentor().instrument()  # before servers and channels are made
"""

from aiobs_grpc._instrumentor import GrpcInstrumentor

__all__ = ["GrpcInstrumentor"]
