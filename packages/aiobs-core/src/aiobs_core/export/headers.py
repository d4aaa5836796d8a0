"""Headers of OTLP requests: those of the environment, and secret ones from a file that is read again when it changes."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from aiobs_core._health import Health
from aiobs_core._reloaded import Reloaded

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(
    r"[\x20-\x7e\x80-\xff]*"
)  # what HTTP takes; nothing that could begin another header
_GRPC_NAME: Final = re.compile(
    r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)"
)  # -bin are bytes, which no variable or file has
_GRPC_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_SECRET_NAME: Final = re.compile(r"auth|key|token|secret|passw|cookie|credential", re.IGNORECASE)
_TENANT_NAME: Final = re.compile(
    r"tenant|(?<![a-z])org|project|account|workspace|namespace|dataset", re.IGNORECASE
)


class Headers(dict[str, str]):
    """Names, in lower case, and values; the values are not in its `repr`, which crash reports have of local variables."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, "…"))


class HeaderSource:
    """The headers that go with each request now. For one thread, that of the exporter.

    Values are in no message, no exception and no `repr`.

    Args:
        given: Of the environment, as `OTEL_EXPORTER_OTLP_HEADERS` has them: `name=value`, separated by commas.
        path: File with more of them, which win; empty: none.
        health: Told once of a file that cannot be used, or that anybody may read.
    """

    def __init__(self, given: str, path: str, health: Health) -> None:
        self._given, is_whole = parse_variable(given)
        self._health = health
        if not is_whole:
            health.problem(
                "otlp.headers_invalid",
                "aiobs: OTEL_EXPORTER_OTLP_HEADERS: expected name=value separated by commas, values percent-encoded; a part "
                "that is none, and is not shown, is left out.",
            )
        self._path = path
        self._file = Reloaded([path], self._read, unusable=self._unusable) if path else None

    def headers(self) -> Headers:
        """Those of the environment and the file; without those of a file that cannot be read and never could."""
        if self._file is None:
            return self._given
        try:
            return Headers({**self._given, **self._file.get()})
        except (OSError, ValueError) as error:
            self._unusable(error)
            return self._given

    def metadata(self) -> Headers:
        """The same for gRPC, which takes fewer; with one that it does not take it would send nothing at all."""
        found = self.headers()
        wrong = [
            name
            for name, value in found.items()
            if not (_GRPC_NAME.fullmatch(name) and _GRPC_VALUE.fullmatch(value))
        ]
        if not wrong:
            return found
        self._health.problem(
            "otlp.headers_not_grpc",
            f"aiobs: gRPC takes no header such as {wrong[0][:64]!r} (names of a-z, 0-9, -, _ and ., without -bin; values of "
            "printable ASCII); it is left out.",
        )
        return Headers({name: value for name, value in found.items() if name not in wrong})

    def hold_secrets(self) -> bool:
        """Whether they must not be seen by others: any of a file, or one with such a name."""
        return bool(self._path) or any(_SECRET_NAME.search(name) for name in self._given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def _read(self) -> Headers:
        path = Path(self._path).expanduser()
        if sys.platform != "win32" and path.stat().st_mode & stat.S_IROTH:
            self._health.problem(
                "otlp.headers_readable",
                "aiobs: anybody on this machine may read the file of AIOBS_OTLP_HEADERS_FILE; give it mode 0400 or 0440 "
                "(in Kubernetes `defaultMode: 0440` of the secret's volume). It is used all the same.",
            )
        return parse_file(path.read_text(encoding="utf-8"))

    def _unusable(self, error: Exception) -> None:
        # An error of decoding holds the text that it is about.
        why = type(error).__name__ if isinstance(error, UnicodeError) else str(error)
        self._health.problem(
            "otlp.headers_unusable",
            f"aiobs: the file of AIOBS_OTLP_HEADERS_FILE cannot be used ({why}); going on with the headers known before. "
            "It is looked at again with what is sent next.",
        )


def parse_variable(text: str) -> tuple[Headers, bool]:
    """Headers as OpenTelemetry's variables have them, and whether every part is one; what is none is left out."""
    found, is_whole = Headers(), True
    for part in filter(str.strip, text.split(",")):
        name, separator, value = part.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        if separator and _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            found[name] = value
        else:
            is_whole = False
    return found, is_whole


def parse_file(text: str) -> Headers:
    """Headers of a file: a line each, `name: value` or `name=value`; empty lines and those with # are skipped.

    Raises:
        ValueError: If a line is no header, or there is none; with the line's number and nothing of it.
    """
    found = Headers()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        split = re.match(r"([^:=]*)[:=](.*)", line.strip())
        name, value = (split[1].strip().lower(), split[2].strip()) if split else ("", "")
        if not (value and _NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError(f"line {number}: expected name: value")
        found[name] = value
    if not found:
        raise ValueError("there is no header in it")
    return found


def names_tenant(header: str) -> bool:
    """Whether a header says whose the spans are; one that may be a credential, which changes, does not."""
    return _TENANT_NAME.search(header) is not None and _SECRET_NAME.search(header) is None


def warn_of_clear_text(health: Health, source: HeaderSource, *, is_secure: bool, host: str) -> None:
    """Say once that secrets go over a network unencrypted; where that is allowed is the user's choice."""
    if is_secure or is_loopback(host) or not source.hold_secrets():
        return
    health.problem(
        "otlp.headers_in_clear",
        "aiobs: headers with secrets are sent over plain http:// to another host, where everybody between can read them; "
        "use an https:// endpoint.",
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return (
        host in {"", "localhost", "::1"}
        or host.endswith(".localhost")
        or re.match(r"127\.", host) is not None
    )
