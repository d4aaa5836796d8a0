"""TLS of the Prometheus page: its certificate, and the authority of those who may scrape, read again when they change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from aiobs_core._reloaded import Reloaded
from aiobs_core.export.tls import VERSIONS, load_pair, readable, reason_of

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings


class PageTls:
    """Gives each new connection the certificates of now; those that are open keep theirs. For the listener's thread.

    Args:
        settings: Which files, and the lowest version of TLS.
        health: Told once of files that cannot be used.
    """

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health
        paths = (settings.prometheus_certificate, settings.prometheus_key, settings.prometheus_client_ca)
        self._context = Reloaded(paths, self._load, unusable=self._unusable)

    def is_usable(self) -> bool:
        """Whether the page may be served: never in the clear where certificates were asked for."""
        try:
            self._context.get()
        except (OSError, ValueError) as error:
            self._health.problem(
                "metrics.certificate",
                f"aiobs: the Prometheus page is not served: its certificate, key or authority cannot be used "
                f"({reason_of(error)}). Check AIOBS_PROMETHEUS_CERTIFICATE, AIOBS_PROMETHEUS_KEY and "
                "AIOBS_PROMETHEUS_CLIENT_CA; they are looked at again every two seconds.",
            )
            return False
        return True

    def context(self) -> ssl.SSLContext:
        """For a connection that is accepted now; only after `is_usable` was true."""
        return self._context.get()

    def _load(self) -> ssl.SSLContext:
        settings = self._settings
        if not (settings.prometheus_certificate and settings.prometheus_key):
            raise ValueError("TLS needs both AIOBS_PROMETHEUS_CERTIFICATE and AIOBS_PROMETHEUS_KEY")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[settings.tls_min_version]
        load_pair(context, settings.prometheus_certificate, settings.prometheus_key)
        if settings.prometheus_client_ca:
            context.load_verify_locations(readable(settings.prometheus_client_ca))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _unusable(self, error: Exception) -> None:
        self._health.problem(
            "metrics.certificate_change",
            f"aiobs: the certificates of the Prometheus page have changed and cannot be used ({reason_of(error)}); it is "
            "served with those known before.",
        )


def page_tls(settings: Settings, health: Health) -> PageTls | None:
    """What the settings ask for; None: the page is served in the clear."""
    is_wanted = settings.prometheus_certificate or settings.prometheus_key or settings.prometheus_client_ca
    return PageTls(settings, health) if is_wanted else None
