"""The official gRPC exporters, opened anew when certificates or headers change, and only to receivers that may be used."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiobs_core._errors import AiobsError
from aiobs_core.export.grpc_receiver import GrpcReceiver
from aiobs_core.export.headers import HeaderSource
from aiobs_core.export.tls_refusal import TlsRefused

_HANDSHAKE_S: Final = 3.0


class FreshGrpcExporter:
    """Exports through an official exporter that has the certificates and headers of now.

    Args:
        make: Opens the exporter with `credentials` and `headers`.
        receiver: Checked before it is used.
        source: Of headers.
        timeout_s: Of one export, that of a receiver to come up included.
    """

    def __init__(
        self, make: Callable[..., Any], *, receiver: GrpcReceiver, source: HeaderSource, timeout_s: float
    ) -> None:
        self._make = make
        self._receiver = receiver
        self._source = source
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._exporter: Any = None
        self._made_with: tuple[int, Mapping[str, str]] | None = None
        self._open_exporter(self._wanted())  # what cannot work at all is said now

    def export(self, batch: Any) -> Any:
        """Export as the official one does.

        Raises:
            TlsRefused: If the receiver may not be used.
            AiobsError: If certificates cannot be used.
            OSError: If there was no connection within `timeout_s`.
        """
        if self._closing.is_set():
            raise AiobsError("the exporter is shut down")
        wanted = self._wanted()
        if self._exporter is None or wanted != self._made_with:
            self._close_exporter()
            self._wait_for_receiver()
            self._open_exporter(wanted)
        else:
            self._wait_for_receiver()
        exporter = self._exporter
        if exporter is None:  # shut down meanwhile, by another thread
            raise AiobsError("the exporter was shut down")
        result = exporter.export(batch)
        if result.name != "SUCCESS" and not self._closing.is_set():
            self._receiver.explain_failure()
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (nothing is held back)
        return True

    def shutdown(self) -> None:
        self._closing.set()
        self._close_exporter()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _wanted(self) -> tuple[int, Mapping[str, str]]:
        return self._receiver.certificates_version, self._source.metadata()

    def _open_exporter(self, wanted: tuple[int, Mapping[str, str]]) -> None:
        headers = tuple(wanted[1].items())
        self._exporter = self._make(
            credentials=self._receiver.credentials(),
            headers=headers or None,
            insecure=not self._receiver.is_secure,
        )
        self._made_with = wanted

    def _wait_for_receiver(self) -> None:
        """Wait for a receiver that may be used, as the official exporter waits for one at all."""
        deadline_s = time.monotonic() + self._timeout_s
        pause_s = 1.0
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                self._receiver.check(min(max(left_s, 0.1), _HANDSHAKE_S))
            except TlsRefused:
                raise
            except OSError:
                if left_s <= pause_s or self._closing.wait(pause_s * random.uniform(0.8, 1.2)):
                    raise
                pause_s *= 2
            else:
                return

    def _close_exporter(self) -> None:
        exporter, self._exporter = self._exporter, None
        self._receiver.check_again()
        if exporter is not None:
            exporter.shutdown()
