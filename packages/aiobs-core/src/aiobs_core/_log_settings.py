"""The settings of structured logs; a part of `Settings`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

from aiobs_core import _setting_values as values
from aiobs_core._setting_sources import setting
from aiobs_core._signal_settings import SignalSettings

_NAMED: Final = ("off", "stdout", "stderr", "loguru", "logging", "structlog")
_LEVELS: Final = {"DEBUG": "DEBUG", "INFO": "INFO", "WARN": "WARN", "WARNING": "WARN", "ERROR": "ERROR"}


def _log(value: object) -> str:
    given = values.text(value)
    if given.lower() in _NAMED:
        return given.lower()
    if os.path.splitext(given)[1] or os.path.dirname(given):  # noqa: PTH120, PTH122 (as it is written)
        return given
    raise ValueError(
        f"one of {', '.join(_NAMED)}, or a file with a folder or an ending, such as requests.jsonl"
    )


def log_level(value: object) -> str:
    """The level by its name in upper case; `WARNING` is `WARN`."""
    found = _LEVELS.get(str(value).strip().upper())
    if found is None:
        raise ValueError("DEBUG, INFO, WARN or ERROR")
    return found


def _signal(value: object) -> str:
    given = values.text(value).upper()
    name = given if given.startswith("SIG") or not given else f"SIG{given}"
    if name and (name not in {"SIGUSR1", "SIGUSR2", "SIGHUP"} or not hasattr(signal, name)):
        raise ValueError("SIGUSR1, SIGUSR2 or SIGHUP, on a system that has them")
    return name


def _logs_exporter(value: object) -> tuple[str, ...]:
    given = values.names(value)
    if any(name not in {"otlp", "none"} for name in given):
        raise ValueError("any of otlp, none, separated by commas")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings(SignalSettings):  # a chain: of two bases with slots no class can be made
    """What is logged of requests, and where."""

    logs: bool = setting(
        values.boolean,
        True,
        "AIOBS_LOGS",
        "Write log lines and emit log records, where `AIOBS_LOG` or an endpoint says where they go.",
        light=True,
    )
    log: str = setting(
        _log,
        "off",
        "AIOBS_LOG",
        "Where log lines go: `off`, `stdout`, `stderr` or a file (JSON lines), or the application's own `loguru`, `logging` "
        "or `structlog`. `{pid}` in a file's name is the process.",
    )
    log_level: str = setting(
        log_level,
        "INFO",
        "AIOBS_LOG_LEVEL OBS_LOG_LEVEL",
        "`INFO`: a line per request; `DEBUG`: also one for each run's start and end; `WARN`: retries; `ERROR`: errors and "
        "time-outs. Of OpenTelemetry log records, too.",
        light=True,
    )
    log_level_file: str = setting(
        values.text,
        "",
        "AIOBS_LOG_LEVEL_FILE AIOBS_CONFIG_FILE",
        "TOML file whose `log_level` is followed while the process runs: a change in it holds within seconds.",
    )
    log_signal: str = setting(
        _signal,
        "",
        "AIOBS_LOG_SIGNAL",
        "Signal that switches between `DEBUG` and the level set, such as `SIGUSR2`. Unset: none.",
    )
    log_file_max_bytes: int = setting(
        values.count(0, 1 << 40),
        100_000_000,
        "AIOBS_LOG_FILE_MAX_BYTES",
        "Size at which a log file is put aside and a new one begun; 0: never.",
    )
    log_file_count: int = setting(
        values.count(1, 10_000),
        10,
        "AIOBS_LOG_FILE_COUNT",
        "How many of the files put aside are kept.",
    )
    log_file_compression: str = setting(
        values.choice("", "gz", "bz2", "xz", "zip"),
        "",
        "AIOBS_LOG_FILE_COMPRESSION",
        "Compress files that are put aside: `gz`, `bz2`, `xz`, `zip`.",
    )
    logs_exporter: tuple[str, ...] = setting(
        _logs_exporter,
        (),
        "OTEL_LOGS_EXPORTER",
        "`none`: send no log records although an endpoint is set; `otlp`: send them.",
    )
    logs_endpoint: str = setting(
        values.endpoint,
        "",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTLP receiver of log records. Not used with a LoggerProvider of the application's own, which sends by itself.",
    )
    logs_protocol: str = setting(
        values.choice("", "grpc", "http/protobuf"),
        "",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc` or `http/protobuf`. Unset: `grpc` for port 4317, else `http/protobuf`.",
    )
