"""All settings in one frozen dataclass, and the only code that reads the environment or the settings file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from aiobs_core import _setting_values as values
from aiobs_core._delivery_settings import DeliverySettings
from aiobs_core._errors import SettingsError
from aiobs_core._setting_sources import (
    CONFIG_FILE_VARIABLE,
    first_valid,
    meant_by,
    read_file,
    setting,
    unknown_names,
    warn_once,
)
from aiobs_core.privacy.hashing import NO_KEYS, HashKeys
from aiobs_core.privacy.policy import CLOSED, FIELDS, PRESETS, Policy

_SDK_DISABLED_VARIABLE: Final = "OTEL_SDK_DISABLED"


_NO_CONTENT: Final = tuple((name, "none") for name in FIELDS)
_CLOSED: Final = "no content, no hash and no user id leaves until it is mended"
_NO_HASHES: Final = "hashes are left out until it is mended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(DeliverySettings):
    """What aiobs does and where it sends it.

    Precedence: an argument of `configure()`, then the environment, then the TOML file named by
    `AIOBS_CONFIG_FILE`, then the default. An invalid value is reported once and the next source is used instead.
    Service name, resource, head sampler, OTLP headers, timeouts and certificates are the `OTEL_*` variables that
    the OpenTelemetry SDK reads itself. Instances are immutable and safe to share between threads.

    Example:
        >>> Settings.load(environ={"AIOBS_CONSOLE": "tree"}).console
        'tree'
    """

    enabled: bool = setting(
        values.boolean,
        True,
        "AIOBS_ENABLED OBSERVABILITY_ENABLED",
        "Master switch. `OTEL_SDK_DISABLED=true` wins over it.",
        light=True,
    )
    traces: bool = setting(
        values.boolean,
        True,
        "AIOBS_TRACES",
        "Export, store and print spans. Off: none is rendered, and those of other instrumentations are not taken; runs are "
        "measured and logged all the same.",
        light=True,
    )
    console: str = setting(
        values.choice("auto", "off", "summary", "tree"),
        "auto",
        "AIOBS_CONSOLE",
        "What to print to stderr when a run ends: `tree`, one line (`summary`), nothing (`off`). `auto`, in a terminal "
        "only: the tree of a run that failed or took over a second, else one line.",
    )
    store: str = setting(
        values.store,
        "auto",
        "AIOBS_STORE",
        "Local store: `off`, a folder, or `auto`: `./.aiobs` (else the user's data folder) while no OTLP endpoint "
        "is set and the application has no TracerProvider of its own.",
    )
    dialects: tuple[str, ...] = setting(
        values.dialects,
        ("ai_agent", "gen_ai"),
        "AIOBS_DIALECTS",
        "Attribute names to emit beside `ai.agent.*`: `gen_ai`, `openinference`.",
    )
    semconv: str = setting(
        values.choice("1.41", "latest", "both"),
        "1.41",
        "AIOBS_SEMCONV",
        "Generation of the `gen_ai.*` names.",
    )
    chain_spans: bool = setting(
        values.boolean,
        True,
        "AIOBS_CHAIN_SPANS",
        "Record plumbing runs (inner chains, prompts, parsers) as spans. Off: their children hang under the next "
        "recorded ancestor.",
    )
    estimate_usage: bool = setting(
        values.boolean,
        False,
        "AIOBS_ESTIMATE_USAGE",
        "Count the tokens of model calls whose provider reports none, with tiktoken (`aiobs-core[estimate]`); such "
        "counts have `ai.agent.usage.source=estimated`.",
    )
    metadata_keys: tuple[str, ...] = setting(
        values.names,
        (),
        "AIOBS_METADATA_KEYS",
        "Metadata keys that may leave the process, as `ai.agent.metadata.<key>`; separated by commas.",
    )
    privacy_policy: Policy = setting(
        values.policy,
        PRESETS["strict"],
        "AIOBS_PRIVACY_POLICY",
        "What may leave, and how it is masked: `strict`, `gdpr`, `ccpa`, `hipaa-safe-harbor`, `debug`, or a policy file "
        "(TOML, YAML).",
        closed=(CLOSED, _CLOSED),
    )
    privacy_policies: tuple[Policy, ...] = setting(
        values.policies,
        (),
        "AIOBS_PRIVACY_POLICIES",
        "Policy files and presets, separated by commas, that `using_attributes(privacy_policy=<name>)` may choose. Unset: "
        "the presets.",
        closed=((), "they cannot be chosen"),
    )
    content: tuple[tuple[str, str], ...] = setting(
        values.content,
        (),
        "AIOBS_CONTENT",
        "Overrides the policy's modes of content: `none`, `hash`, `masked` or `full` for all, or by field as in "
        "`prompts=masked,tool_results=none`.",
        closed=(_NO_CONTENT, _CLOSED),
    )
    capture_message_content: str = setting(
        values.choice("", "no_content", "span_only", "event_only", "span_and_event", "true", "false"),
        "",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "OpenTelemetry's own switch: an upper bound for readable content (`NO_CONTENT`, `SPAN_ONLY`, `EVENT_ONLY`, "
        "`SPAN_AND_EVENT`), and with the default policy and without `AIOBS_CONTENT` a wish for `masked`.",
        closed=("no_content", "no readable content leaves until it is mended"),
    )
    content_max_chars: int = setting(
        values.count(64, 10_000_000),
        8_192,
        "AIOBS_CONTENT_MAX_CHARS",
        "Longest text of content; longer ones are cut, with a mark. An attribute holds at most four times as much.",
    )
    content_overflow: str = setting(
        values.choice("cut", "store"),
        "cut",
        "AIOBS_CONTENT_OVERFLOW",
        "What becomes of longer content: `cut`, or `store`: the whole of it, masked, in a file beside the local store.",
    )
    hash_key: HashKeys | None = setting(
        values.hash_key,
        None,
        "AIOBS_HASH_KEY",
        "Secret key of the hashes, at least 16 bytes; lines below the first are older keys. Unset: the file, else a key "
        "of this installation, made on first use.",
        closed=(NO_KEYS, _NO_HASHES),
        secret=True,
    )
    hash_key_file: HashKeys | None = setting(
        values.hash_key_file,
        None,
        "AIOBS_HASH_KEY_FILE",
        "File with that key, such as a mounted secret; others must not be able to read it.",
        closed=(NO_KEYS, _NO_HASHES),
        secret=True,
    )
    audit: str = setting(
        values.store,
        "auto",
        "AIOBS_AUDIT",
        "Audit log: `off`, a file, or `auto`: `audit.jsonl` in the folder of the local store, where that is in use.",
    )
    retention_days: float = setting(
        values.number(0, 36_500, "days"),
        0.0,
        "AIOBS_RETENTION_DAYS",
        "Age at which traces are deleted from the local store; 0: as the policy says, which is never for `strict`.",
    )
    max_open_runs: int = setting(
        values.count(1, 10_000_000),
        10_000,
        "AIOBS_MAX_OPEN_RUNS",
        "Runs open at once; beyond it the oldest is closed as `abandoned` and counted.",
    )
    queue_size: int = setting(
        values.count(16, 10_000_000),
        16_384,
        "AIOBS_QUEUE_SIZE",
        "Ended spans that may wait for the worker (and for each exporter); beyond it new ones are dropped and counted.",
    )
    flush_interval_s: float = setting(
        values.number(0.01, 60, "seconds"),
        0.2,
        "AIOBS_FLUSH_INTERVAL_S",
        "How long the worker gathers ended spans.",
    )
    grace_s: float = setting(
        values.number(0, 600, "seconds"),
        2.0,
        "AIOBS_GRACE_S",
        "How long the open descendants of an ended run may still report their own end.",
    )
    run_ttl_s: float = setting(
        values.number(1, 604_800, "seconds"),
        3_600.0,
        "AIOBS_RUN_TTL_S",
        "Age at which an open run is closed as `timed_out`.",
    )
    export_timeout_s: float = setting(
        values.number(0.1, 600, "seconds"),
        2.0,
        "AIOBS_EXPORT_TIMEOUT_S",
        "How long flush and shutdown may take, and so a process's exit while a receiver does not answer.",
    )
    otlp_endpoint: str = setting(
        values.endpoint,
        "",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTLP receiver. Unset: nothing is sent, spans go to the local store. Not used with a TracerProvider of the "
        "application's own, which sends by itself.",
    )
    otlp_protocol: str = setting(
        values.choice("", "grpc", "http/protobuf"),
        "",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc` or `http/protobuf`. Unset: `grpc` for port 4317, else `http/protobuf`.",
    )
    traces_exporter: tuple[str, ...] = setting(
        values.exporters,
        (),
        "OTEL_TRACES_EXPORTER",
        "`none`: send nothing although an endpoint is set; `otlp`: send, to the protocol's default endpoint if none "
        "is set; `console`: print the tree.",
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded: the master switch, and that of one signal at least."""
        return self.enabled and (self.traces or self.metrics or self.logs)

    def with_changes(self, changes: Mapping[str, object]) -> Settings:
        """These settings with others in some places, by name.

        Raises:
            SettingsError: If there is no setting of a name, or it does not take the value.
        """
        known = {item.name: item for item in fields(self)}
        problems = unknown_names(changes, known, "argument")
        changed: dict[str, Any] = {}
        for name in changes.keys() & known.keys():
            value = changes[name]
            if isinstance(
                value, (str, bool, int, float, list)
            ):  # anything else is what such a one would become
                value = first_valid(
                    [(value, name, "argument")],
                    known[name],
                    problems,
                    getattr(self, name),
                    closed=known[name].metadata["closed"],
                )
            changed[name] = value
        if problems:
            raise SettingsError("\n".join(problems))
        return replace(self, **changed)

    def differs_lightly(self, other: Settings) -> bool:
        """Whether at most those settings differ that change while everything stays open."""
        light = {item.name: getattr(self, item.name) for item in fields(self) if item.metadata["light"]}
        return replace(other, **light) == self

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        *,
        strict: bool = False,
        before: Settings | None = None,
    ) -> Settings:
        """Read the settings from arguments, environment and file.

        Args:
            environ: Variables to read; the process's own if None.
            overrides: Values by field name; they win over everything else. None is "not given".
            strict: Raise instead of warning.
            before: What is in force, where a process reads its file again. A file that cannot be read changes nothing
                of it, and an invalid value gives that in force instead of the default; privacy is closed as ever.

        Raises:
            SettingsError: If `strict` and a value, a name or the file is invalid.
        """
        environ = os.environ if environ is None else environ
        overrides = overrides or {}
        problems: list[str] = []
        known = {item.name: item for item in fields(cls)}
        path = environ.get(CONFIG_FILE_VARIABLE, "")
        from_file = read_file(path, known, problems, stays=before is not None)
        if from_file is None and before is not None:
            for problem in problems:
                warn_once(problem)
            return before
        is_lost = from_file is None  # it may have said something about privacy
        from_file = from_file or {}
        problems.extend(unknown_names(overrides, known, "argument"))
        meant = meant_by({*overrides, *from_file} - known.keys(), known)
        found: dict[str, Any] = {}
        for name, item in known.items():
            candidates: list[tuple[object, str, str]] = []
            if overrides.get(name) is not None:
                candidates.append((overrides[name], name, "argument"))
            variables = [each for each in item.metadata["variables"] if environ.get(each, "").strip()]
            candidates.extend((environ[variable], variable, "environment") for variable in variables)
            if name in from_file:
                candidates.append((from_file[name], name, path))
            otherwise = item.default if before is None else getattr(before, name)
            closed = None if before is not None and item.metadata["stays"] else item.metadata["closed"]
            found[name] = first_valid(candidates, item, problems, otherwise, closed=closed)
            if not candidates and closed is not None and (is_lost or name in meant):
                found[name] = closed[0]
            elif not candidates and name not in meant:
                found[name] = item.default
        if environ.get(_SDK_DISABLED_VARIABLE, "").strip().lower() == "true":
            found["enabled"] = False
        if problems and strict:
            raise SettingsError("\n".join(problems))
        for problem in problems:
            warn_once(problem)
        return cls(**found)


def settings_file(environ: Mapping[str, str] | None = None) -> str:
    """The path of the settings file, as it is given; empty if there is none."""
    return (os.environ if environ is None else environ).get(CONFIG_FILE_VARIABLE, "")
