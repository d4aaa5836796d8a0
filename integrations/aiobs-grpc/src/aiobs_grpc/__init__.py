"""aiobs over gRPC: one trace and one request, from the client to the server.

```python
from aiobs_grpc import GrpcInstrumentor

GrpcInstrumentor().instrument()
```
"""

from typing import TYPE_CHECKING

from aiobs_core.adapter import lazy_names

if TYPE_CHECKING:
    from aiobs_grpc._instrumentor import GrpcInstrumentor

__all__ = ["GrpcInstrumentor"]
__getattr__ = lazy_names(__name__, {"GrpcInstrumentor": "aiobs_grpc._instrumentor"})
