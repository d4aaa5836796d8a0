"""What stands around observed agents, as code: each module is a room of its own.

- `aiobs_ops.collector`: the OpenTelemetry Collector with the rules of a sampling policy.
"""

__all__: list[str] = []
