"""All settings in one frozen dataclass, and the only code that reads the environment or the settings file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from aiobs_core._errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger("aiobs")

CONFIG_FILE_VARIABLE: Final = "AIOBS_CONFIG_FILE"
_SDK_DISABLED_VARIABLE: Final = "OTEL_SDK_DISABLED"
_TRUE: Final = {"true", "1", "yes", "on"}
_FALSE: Final = {"false", "0", "no", "off"}


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def _choice(*accepted: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = str(value).strip().lower()
        if text not in accepted:
            raise ValueError("one of " + ", ".join(accepted))
        return text

    return parse


def _number(low: float, high: float, unit: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        error = f"a number of {unit} from {low:g} to {high:g}"
        if isinstance(value, bool):
            raise ValueError(error)
        try:
            number = float(str(value))
        except ValueError:
            raise ValueError(error) from None
        if not low <= number <= high:  # also refuses NaN
            raise ValueError(error)
        return number

    return parse


def _count(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        error = f"a whole number from {low} to {high}"
        if isinstance(value, bool):
            raise ValueError(error)
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError(error) from None
        if not low <= number <= high:
            raise ValueError(error)
        return number

    return parse


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ValueError("names separated by commas")


def _dialects(value: object) -> tuple[str, ...]:
    given = _names(value)
    accepted = ("ai_agent", "gen_ai", "openinference")
    if any(name not in accepted for name in given):
        raise ValueError("any of " + ", ".join(accepted) + ", separated by commas")
    return tuple(name for name in accepted if name == "ai_agent" or name in given)


def _exporters(value: object) -> tuple[str, ...]:
    accepted = ("otlp", "none", "console")
    given = _names(value)
    if any(name not in accepted for name in given):
        raise ValueError("any of " + ", ".join(accepted) + ", separated by commas")
    return given


def _text(value: object) -> str:
    if not isinstance(value, (str, Path)):
        raise ValueError("text")
    return str(value).strip()


def _store(value: object) -> str:
    text = _text(value)
    return text.lower() if text.lower() in {"auto", "off"} else text


def _setting(parse: Callable[[object], object], default: object, variables: str, help_: str) -> Any:
    names = tuple(variables.split())
    return field(default=default, metadata={"parse": parse, "variables": names, "help": help_})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What aiobs does and where it sends it.

    Precedence: an argument of `configure()`, then the environment, then the TOML file named by
    `AIOBS_CONFIG_FILE`, then the default. An invalid value is reported once and the next source is used instead.
    Service name, resource, head sampler, OTLP headers, timeouts and certificates are the `OTEL_*` variables that
    the OpenTelemetry SDK reads itself. Instances are immutable and safe to share between threads.

    Example:
        >>> Settings.load(environ={"AIOBS_CONSOLE": "tree"}).console
        'tree'
    """

    enabled: bool = _setting(
        _boolean,
        True,
        "AIOBS_ENABLED OBSERVABILITY_ENABLED",
        "Master switch. `OTEL_SDK_DISABLED=true` wins over it.",
    )
    console: str = _setting(
        _choice("auto", "off", "summary", "tree"),
        "auto",
        "AIOBS_CONSOLE",
        "What to print to stderr when a run ends: `tree`, one line (`summary`), nothing (`off`). `auto`, in a terminal "
        "only: the tree of a run that failed or took over a second, else one line.",
    )
    store: str = _setting(
        _store,
        "auto",
        "AIOBS_STORE",
        "Local store: `off`, a folder, or `auto`: `./.aiobs` (else the user's data folder) while no OTLP endpoint "
        "is set and the application has no TracerProvider of its own.",
    )
    dialects: tuple[str, ...] = _setting(
        _dialects,
        ("ai_agent", "gen_ai"),
        "AIOBS_DIALECTS",
        "Attribute names to emit beside `ai.agent.*`: `gen_ai`, `openinference`.",
    )
    semconv: str = _setting(
        _choice("1.41", "latest", "both"), "1.41", "AIOBS_SEMCONV", "Generation of the `gen_ai.*` names."
    )
    chain_spans: bool = _setting(
        _boolean,
        True,
        "AIOBS_CHAIN_SPANS",
        "Record plumbing runs (inner chains, prompts, parsers) as spans. Off: their children hang under the next "
        "recorded ancestor.",
    )
    estimate_usage: bool = _setting(
        _boolean,
        False,
        "AIOBS_ESTIMATE_USAGE",
        "Count the tokens of model calls whose provider reports none, with tiktoken (`aiobs-core[estimate]`); such "
        "counts have `ai.agent.usage.source=estimated`.",
    )
    metadata_keys: tuple[str, ...] = _setting(
        _names,
        (),
        "AIOBS_METADATA_KEYS",
        "Metadata keys that may leave the process, as `ai.agent.metadata.<key>`; separated by commas.",
    )
    max_open_runs: int = _setting(
        _count(1, 10_000_000),
        10_000,
        "AIOBS_MAX_OPEN_RUNS",
        "Runs open at once; beyond it the oldest is closed as `abandoned` and counted.",
    )
    queue_size: int = _setting(
        _count(16, 10_000_000),
        16_384,
        "AIOBS_QUEUE_SIZE",
        "Ended spans that may wait for the worker (and for each exporter); beyond it new ones are dropped and counted.",
    )
    flush_interval_s: float = _setting(
        _number(0.01, 60, "seconds"),
        0.2,
        "AIOBS_FLUSH_INTERVAL_S",
        "How long the worker gathers ended spans.",
    )
    grace_s: float = _setting(
        _number(0, 600, "seconds"),
        2.0,
        "AIOBS_GRACE_S",
        "How long the open descendants of an ended run may still report their own end.",
    )
    run_ttl_s: float = _setting(
        _number(1, 604_800, "seconds"),
        3_600.0,
        "AIOBS_RUN_TTL_S",
        "Age at which an open run is closed as `timed_out`.",
    )
    export_timeout_s: float = _setting(
        _number(0.1, 600, "seconds"), 5.0, "AIOBS_EXPORT_TIMEOUT_S", "How long flush and shutdown may take."
    )
    otlp_endpoint: str = _setting(
        _text,
        "",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTLP receiver. Unset: nothing is sent, spans go to the local store. Not used with a TracerProvider of the "
        "application's own, which sends by itself.",
    )
    otlp_protocol: str = _setting(
        _choice("", "grpc", "http/protobuf"),
        "",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc` or `http/protobuf`. Unset: `grpc` for port 4317, else `http/protobuf`.",
    )
    traces_exporter: tuple[str, ...] = _setting(
        _exporters,
        (),
        "OTEL_TRACES_EXPORTER",
        "`none`: send nothing although an endpoint is set; `otlp`: send, to the protocol's default endpoint if none "
        "is set; `console`: print the tree.",
    )

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        *,
        strict: bool = False,
    ) -> Settings:
        """Read the settings from arguments, environment and file.

        Args:
            environ: Variables to read; the process's own if None.
            overrides: Values by field name; they win over everything else. None is "not given".
            strict: Raise instead of warning.

        Raises:
            SettingsError: If `strict` and a value, a name or the file is invalid.
        """
        environ = os.environ if environ is None else environ
        overrides = overrides or {}
        problems: list[str] = []
        known = {item.name: item for item in fields(cls)}
        from_file = _read_file(environ.get(CONFIG_FILE_VARIABLE, ""), known, problems)
        problems.extend(_unknown(overrides, known, "argument"))
        values: dict[str, Any] = {}
        for name, item in known.items():
            candidates: list[tuple[object, str, str]] = []
            if overrides.get(name) is not None:
                candidates.append((overrides[name], name, "argument"))
            variables = [each for each in item.metadata["variables"] if environ.get(each, "").strip()]
            candidates.extend((environ[variable], variable, "environment") for variable in variables)
            if name in from_file:
                candidates.append((from_file[name], name, environ[CONFIG_FILE_VARIABLE]))
            values[name] = _first_valid(candidates, item.metadata["parse"], item.default, problems)
        if environ.get(_SDK_DISABLED_VARIABLE, "").strip().lower() == "true":
            values["enabled"] = False
        if problems and strict:
            raise SettingsError("\n".join(problems))
        for problem in problems:
            _warn_once(problem)
        return cls(**values)


def _first_valid(
    candidates: list[tuple[object, str, str]],
    parse: Callable[[object], object],
    default: object,
    problems: list[str],
) -> object:
    rejected: list[str] = []
    value = default
    for given, name, source in candidates:
        try:
            value = parse(given)
            break
        except ValueError as error:
            rejected.append(f"{name}: expected {error}, got {str(given)[:80]!r} ({source})")
    problems.extend(f"{text}; using {value!r}." for text in rejected)
    return value


def _read_file(path: str, known: Mapping[str, object], problems: list[str]) -> Mapping[str, object]:
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(
            f"{CONFIG_FILE_VARIABLE}: cannot read {path!r} as TOML ({type(error).__name__}: {error}); "
            "using environment and defaults."
        )
        return {}
    section = table.get("aiobs", table)
    if not isinstance(section, dict):
        problems.append(f"{CONFIG_FILE_VARIABLE}: expected a table [aiobs] in {path!r}; ignoring the file.")
        return {}
    problems.extend(_unknown(section, known, path))
    return section


def _unknown(given: Mapping[str, object], known: Mapping[str, object], source: str) -> list[str]:
    accepted = ", ".join(known)
    return [
        f"{name}: no such setting ({source}); accepted: {accepted}; ignoring it."
        for name in sorted(given.keys() - known.keys())
    ]


_warned: set[str] = set()


def _warn_once(problem: str) -> None:
    if problem not in _warned:
        _warned.add(problem)
        _log.warning("%s", problem)
