"""Which outbox and which transport the settings ask for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.resources import SERVICE_NAME

from aiobs_core.export.boxes import Boxes
from aiobs_core.export.courier import Courier
from aiobs_core.export.delivery import Delivery
from aiobs_core.export.headers import names_tenant, parse_variable
from aiobs_core.export.otlp import protocol_of, variable
from aiobs_core.export.outbox import Outbox
from aiobs_core.export.outbox_place import outbox_folder, place_of
from aiobs_core.export.parcels import Bounds

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from aiobs_core._accounts import Accounts
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.export.transport import Transport

_log = logging.getLogger("aiobs")
_MEMORY_BYTES: Final = 64 << 20
_FILE_VARIABLES: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
_SHARE: Final = 0.8  # so that what was lost is said before everybody stops waiting


def open_delivery(
    settings: Settings,
    health: Health,
    resource: Resource,
    *,
    accounts: Accounts,
    cwd: Path | None,
    environ: Mapping[str, str],
) -> Delivery:
    """Delivery of spans as the settings ask for it; files and connections are opened by its thread.

    Args:
        settings: Of this process.
        health: Told of losses.
        resource: Of the spans.
        accounts: Of this process.
        cwd: The project's folder; None: it is gone.
        environ: Variables of OTLP and of the platform.
    """

    def make() -> Transport:
        from aiobs_core.export.transport import open_transport

        return open_transport(settings, environ=environ, health=health)

    boxes = _boxes(settings, health, resource, accounts, cwd=cwd, environ=environ)
    files = [variable("traces", name, environ) for name in _FILE_VARIABLES]
    files += [settings.otlp_client_key_password_file, settings.otlp_headers_file]
    courier = Courier(make, boxes.all, health, max_age_s=settings.spool_max_age_s, files=files)
    return Delivery(boxes, courier, health=health, timeout_s=settings.export_timeout_s * _SHARE)


def _boxes(
    settings: Settings,
    health: Health,
    resource: Resource,
    accounts: Accounts,
    *,
    cwd: Path | None,
    environ: Mapping[str, str],
) -> Boxes:
    folder = outbox_folder(settings.spool, cwd=cwd, environ=environ)
    service = str(resource.attributes.get(SERVICE_NAME, ""))
    destination = _destination(settings, service, environ)
    open_box: Callable[..., Outbox] = partial(
        Outbox,
        destination=destination,
        place=place_of(settings.otlp_endpoint),
        service=service,
    )
    max_bytes = settings.spool_max_bytes
    return Boxes(
        None if folder is None else partial(open_box, folder, bounds=Bounds(max_bytes=max_bytes)),
        partial(
            open_box,
            None,
            bounds=Bounds(max_bytes=min(max_bytes, _MEMORY_BYTES), max_spans=settings.queue_size),
        ),
        health,
        folder=folder,
        accounts=accounts,
        insists=settings.spool != "auto",
        key=None if folder is None else (folder, destination),
    )


def _destination(settings: Settings, service: str, environ: Mapping[str, str]) -> bytes:
    """Tells receivers, applications and tenants apart: nobody sends another's spans under his own name.

    Of headers the names, and the values of those that name a tenant. No other value: a key that was changed must not
    orphan what waits, and nothing secret may be guessed from the file. See docs/decisions/0013.
    """
    headers, _ = parse_variable(variable("traces", "HEADERS", environ))
    told = (
        settings.otlp_endpoint,
        protocol_of(settings),
        service,
        settings.otlp_headers_file,
        *(f"{name}={value}" if names_tenant(name) else name for name, value in sorted(headers.items())),
    )
    return hashlib.blake2s("\n".join(told).encode(), digest_size=16).digest()
