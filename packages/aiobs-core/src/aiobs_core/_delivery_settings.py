"""The settings of delivery and of calls to other services; a part of `Settings`."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs_core import _setting_values as values
from aiobs_core._log_settings import LogSettings
from aiobs_core._setting_sources import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings(LogSettings):
    """Where spans wait that the OTLP receiver has not taken yet, and what passes the border of the process with calls."""

    spool: str = setting(
        values.store,
        "auto",
        "AIOBS_SPOOL",
        "Spool of spans on their way to the OTLP receiver: `off` (they wait in memory), a folder, or `auto`: "
        "`./.aiobs` (else the user's data folder), and none where that cannot be written.",
    )
    spool_max_bytes: int = setting(
        values.count(1 << 20, 1 << 40),
        128 << 20,
        "AIOBS_SPOOL_MAX_BYTES",
        "Size of the spool, from 1 MiB to 1 TiB; beyond it the oldest spans are dropped and counted. In memory it holds at most 64 MiB and "
        "`AIOBS_QUEUE_SIZE` spans.",
    )
    spool_max_age_s: float = setting(
        values.number(1, 31_536_000, "seconds"),
        86_400.0,
        "AIOBS_SPOOL_MAX_AGE_S",
        "Age at which spans are given up that the receiver still does not take, and counted.",
    )
    baggage_keys: tuple[str, ...] = setting(
        values.names,
        (),
        "AIOBS_BAGGAGE_KEYS",
        "Keys of W3C baggage that came with a request and are passed on with calls to other services, besides the request's own "
        "identity; separated by commas.",
    )
    trust_baggage: bool = setting(
        values.boolean,
        False,
        "AIOBS_TRUST_BAGGAGE",
        "Whether baggage that came with a request (`ai.agent.sampling.keep`) may force its trace to be kept. Only where all callers "
        "are your own: whoever may force it can fill your backend.",
    )
