"""`GrpcInstrumentor`: activates OpenTelemetry's instrumentation of gRPC, with what it is missing around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped module

from aiobs_core import get_recorder
from aiobs_core.propagation import install

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_OPENTELEMETRYS: Final = "opentelemetry.instrumentation.grpc"
_MISSING: Final = (
    "aiobs: GrpcInstrumentor needs opentelemetry-instrumentation-grpc and grpcio, and at least one of them is not installed; "
    "no gRPC call is instrumented. Install them with aiobs-grpc[instruments]."
)


class GrpcInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # Any: the module is untyped
    """Carries the request and its trace over gRPC: clients and servers, synchronous and not, all four kinds of calls.

    Also found by `opentelemetry-instrument` under the name `aiobs_grpc`. It holds for channels and servers that are made
    from then on. What the application has activated of OpenTelemetry's instrumentation stays as it is, with its filters and
    hooks, and is not activated twice.

    Example:
        >>> GrpcInstrumentor().instrument(aio_client=False, aio_server=False)
        >>> GrpcInstrumentor().uninstrument()
    """

    _activated: tuple[Any, ...] = ()
    _makers: Mapping[str, Callable[..., Any]] = MappingProxyType({})

    def instrumentation_dependencies(self) -> Collection[str]:
        return ("grpcio >= 1.42.0",)

    def instrument(self, **kwargs: Any) -> None:
        """Instrument the process.

        Args:
            kwargs: `client`, `server`, `aio_client` and `aio_server` are activated unless False; `tracer_provider`,
                `request_hook` and `response_hook` go on to OpenTelemetry's instrumentation.
        """
        if find_spec(_OPENTELEMETRYS) is None or find_spec("grpc") is None:
            get_recorder().health.problem("grpc.missing", _MISSING)
            return
        super().instrument(**kwargs)

    def _instrument(
        self,
        *,
        client: bool = True,
        server: bool = True,
        aio_client: bool = True,
        aio_server: bool = True,
        **options: Any,
    ) -> None:
        from opentelemetry.instrumentation import grpc as opentelemetrys

        install()
        get_recorder().open()  # a server may be called before its first run: there has to be a TracerProvider
        self._surround(opentelemetrys, options.get("tracer_provider"))
        parts: tuple[tuple[bool, Any], ...] = (
            (client, opentelemetrys.GrpcInstrumentorClient),
            (server, opentelemetrys.GrpcInstrumentorServer),
            (aio_client, opentelemetrys.GrpcAioInstrumentorClient),
            (aio_server, opentelemetrys.GrpcAioInstrumentorServer),
        )
        for wanted, instrumentor in parts:
            # Their one object, if there is one: to call the class would take the application's filter from it.
            its_one = instrumentor.__new__(instrumentor)
            if wanted and not its_one.is_instrumented_by_opentelemetry:
                instrumentor().instrument(**options)
                self._activated += (its_one,)

    def _surround(self, opentelemetrys: Any, provider: TracerProvider | None) -> None:
        """Have ours around each interceptor that is made, whoever asks for one."""
        from aiobs_grpc import _aio_client
        from aiobs_grpc._client import ClientInterceptor
        from aiobs_grpc._server import AioServerInterceptor, ServerInterceptor
        from aiobs_grpc._tracer import StageTracerProvider

        def around_aio_clients(made: Any, *_: Any, response_hook: Any = None, **_hooks: Any) -> Any:
            return _aio_client.around(made, response_hook)

        around: Mapping[str, Callable[..., Any]] = {
            "client_interceptor": lambda made, *_, **_hooks: ClientInterceptor(made),
            "server_interceptor": lambda made, *_: ServerInterceptor(made),
            "aio_client_interceptors": around_aio_clients,
            "aio_server_interceptor": lambda made, *given: AioServerInterceptor(
                made, makers["server_interceptor"](*given)
            ),
        }
        makers = self._makers = {name: getattr(opentelemetrys, name) for name in around}

        def surrounded(name: str) -> Callable[..., Any]:
            def make(tracer_provider: Any = None, filter_: Any = None, **hooks: Any) -> Any:
                with_stages = StageTracerProvider(tracer_provider or provider)
                return around[name](
                    makers[name](with_stages, filter_, **hooks), with_stages, filter_, **hooks
                )

            return make

        for name in around:
            setattr(opentelemetrys, name, surrounded(name))

    def _uninstrument(self, **_: Any) -> None:
        from opentelemetry.instrumentation import grpc as opentelemetrys

        for each in self._activated:
            each.uninstrument()
        for name, make in self._makers.items():
            setattr(opentelemetrys, name, make)
        self._activated, self._makers = (), {}
