"""OpenTelemetry's instrumentation of gRPC, with the identity of the request on top."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcAioInstrumentorServer,
    GrpcInstrumentorClient,
    GrpcInstrumentorServer,
)
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from aiobs_core import get_recorder
from aiobs_core.propagation import install

_SIDES: Final[Mapping[str, Sequence[Any]]] = {
    "client": (GrpcInstrumentorClient, GrpcAioInstrumentorClient),
    "server": (GrpcInstrumentorServer, GrpcAioInstrumentorServer),
}


class GrpcInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # which has no types
    """Instruments gRPC's clients and servers, sync and aio, with `opentelemetry-instrumentation-grpc`.

    What that does not do by itself: the identity of the request (id, hashed session and tenant) goes along as metadata, the
    runs inside a handler belong to the caller's request, and there is a TracerProvider before the first run. What the
    application has instrumented already stays as it is. Channels and servers that were made before are not reached.

    Example:
        >>> GrpcInstrumentor().instrument(sides=["server"])
        >>> GrpcInstrumentor().uninstrument()
    """

    _started: Sequence[Any] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        """Of gRPC, any version that OpenTelemetry's instrumentation takes."""
        return ("grpcio >= 1.42.0",)

    def _instrument(self, **options: Any) -> None:
        """Switch on.

        Args:
            options: `sides`: `client`, `server`, or both (default).

        Raises:
            ValueError: If a side is none.
        """
        sides = options.get("sides", tuple(_SIDES))
        if isinstance(sides, str) or not set(sides) <= _SIDES.keys():
            raise ValueError(
                f"sides: expected a list of {' and '.join(_SIDES)}, got {sides!r}; nothing was instrumented."
            )
        install()
        get_recorder().open()
        started = []
        for side in sides:
            for each in _SIDES[side]:
                instrumentor = each()
                if not instrumentor.is_instrumented_by_opentelemetry:
                    instrumentor.instrument()
                    started.append(instrumentor)
        self._started = started

    def _uninstrument(self, **_: Any) -> None:
        """Switch off what this has switched on."""
        for instrumentor in self._started:
            instrumentor.uninstrument()
        self._started = ()
