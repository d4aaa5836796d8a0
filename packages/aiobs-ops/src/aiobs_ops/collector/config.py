"""Configuration of the OpenTelemetry Collector that follows a sampling policy, in one process or in two tiers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from aiobs_core import AiobsError
from aiobs_core.sampling.policy import SamplingPolicy
from aiobs_ops.collector.checks import IdForm
from aiobs_ops.collector.policies import tail_sampling_policies

CONTRIB_VERSION: Final = "0.157"
"""The first version of otelcol-contrib for which this is written: there `latency` came to mean what is longer."""
Tier = Literal["single", "1", "2"]
"""`single`: one Collector decides; `1`: sends all spans of a trace to the same one of the second tier; `2`: decides."""
_CACHED_PER_TRACE: Final = 10  # decisions that are remembered for late spans
_ENDPOINT: Final = re.compile(
    r"(?:https?://|dns:///)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})"
)
_LISTENS_ON: Final = (4317, 4318)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_EVERYWHERE: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared with
_WIDTH: Final = 100_000  # a condition stays on its line


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorOptions:
    """What the configuration says besides the rules.

    Attributes:
        endpoint: Where kept spans go over OTLP/gRPC: `host:port`, with `http://` (no TLS), `https://` or `dns:///` before it
            if need be. The first tier needs none.
        listen_host: Address that the receivers bind: gRPC on port 4317, HTTP on 4318.
        insecure: Whether what is sent on goes without TLS.
        decision_wait_s: From a trace's first span to the decision, from 1 to 86,400.
        trace_count: Undecided traces in memory.
        samplers: Second tier: a fixed list of `host:port`.
        samplers_dns: Second tier: a name that has the addresses of all of them (a headless service in Kubernetes).
        samplers_kubernetes: Second tier: `service.namespace`, watched through Kubernetes' API.
        samplers_port: Port of what `samplers_dns` and `samplers_kubernetes` find.
        user_id_form: How ids of users and tenants leave the process; None: not known, and rules of them are refused.
    """

    endpoint: str | None = None
    listen_host: str = "0.0.0.0"  # noqa: S104 - in a container there is no other way in
    insecure: bool = False
    decision_wait_s: int = 60
    trace_count: int = 50_000
    samplers: tuple[str, ...] = ()
    samplers_dns: str | None = None
    samplers_kubernetes: str | None = None
    samplers_port: int = 4317
    user_id_form: IdForm | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.decision_wait_s <= 86_400:
            raise AiobsError(
                f"decision_wait_s: expected seconds from 1 to 86,400, got {self.decision_wait_s}; nothing was written."
            )
        if self.trace_count < 1:
            raise AiobsError(
                f"trace_count: expected traces from 1, got {self.trace_count}; nothing was written."
            )
        if self.endpoint is not None:
            _require_elsewhere(self.endpoint, self.listen_host)


def _require_elsewhere(endpoint: str, listen_host: str) -> None:
    """Refuse what the exporter cannot send to, and the Collector itself."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise AiobsError(
            "endpoint: expected host:port of a receiver of OTLP over gRPC, such as tempo:4317, with http://, https:// or dns:/// "
            f"before it if need be, got {endpoint!r}; nothing was written."
        )
    host = found["host"]
    is_here = host == listen_host or (host in _LOOPBACK and listen_host in _EVERYWHERE | _LOOPBACK)
    if int(found["port"]) in _LISTENS_ON and (is_here or host in _EVERYWHERE):
        raise AiobsError(
            f"endpoint: {endpoint} is where this Collector itself listens ({listen_host}, ports 4317 and 4318), so it would send "
            "each span to itself; expected the next receiver, such as tempo:4317. Nothing was written."
        )


def collector_config(
    policy: SamplingPolicy,
    options: CollectorOptions,
    *,
    tier: Tier = "single",
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """The Collector's configuration as data.

    Args:
        policy: The rules; the first tier follows none.
        options: The rest.
        tier: Which Collector it is for.
        notes: Where it is told how the Collector's decisions can differ from a process's.

    Raises:
        NotExpressibleError: If there are rules that the Collector cannot follow; names each of them.
        AiobsError: If the first tier is not told where the second one is, or another where spans go.
    """
    processors: dict[str, Any] = {
        "memory_limiter": {"check_interval": "1s", "limit_percentage": 80, "spike_limit_percentage": 20}
    }
    if tier == "1":
        exporters = {"load_balancing": _load_balancing(options)}
    else:
        processors["tail_sampling"] = _tail_sampling(policy, options, [] if notes is None else notes)
        exporters = {"otlp_grpc": _next_receiver(options)}
    pipeline = {"receivers": ["otlp"], "processors": list(processors), "exporters": list(exporters)}
    config = {
        "receivers": {"otlp": {"protocols": _listening(options.listen_host)}},
        "processors": processors,
        "exporters": exporters,
        "service": {"pipelines": {"traces": pipeline}},
    }
    escaped: dict[str, Any] = _escaped(config)
    return escaped


def _listening(host: str) -> dict[str, Any]:
    grpc, http = _LISTENS_ON
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return {"grpc": {"endpoint": f"{host}:{grpc}"}, "http": {"endpoint": f"{host}:{http}"}}


def _tail_sampling(policy: SamplingPolicy, options: CollectorOptions, notes: list[str]) -> dict[str, Any]:
    remembered = _CACHED_PER_TRACE * options.trace_count
    return {
        "decision_wait": f"{options.decision_wait_s}s",
        "num_traces": options.trace_count,
        "decision_cache": {"sampled_cache_size": remembered, "non_sampled_cache_size": remembered},
        "policies": tail_sampling_policies(policy, user_id_form=options.user_id_form, notes=notes),
    }


def _next_receiver(options: CollectorOptions) -> dict[str, Any]:
    if options.endpoint is None:
        raise AiobsError(
            "endpoint: expected host:port of the receiver that kept spans go on to (--endpoint tempo:4317), got none; nothing was "
            "written."
        )
    if options.endpoint.startswith("https://") and options.insecure:
        raise AiobsError(
            f"endpoint: {options.endpoint} asks for TLS, and --insecure for none; give one of them. Nothing was written."
        )
    if options.endpoint.startswith("http://"):  # the Collector would try TLS all the same
        return {"endpoint": options.endpoint, "tls": {"insecure": True}}
    return {"endpoint": options.endpoint, **_tls(options)}


def _tls(options: CollectorOptions) -> dict[str, Any]:
    return {"tls": {"insecure": True}} if options.insecure else {}


def _load_balancing(options: CollectorOptions) -> dict[str, Any]:
    resolvers: dict[str, Any] = {}
    if options.samplers:
        resolvers["static"] = {"hostnames": list(options.samplers)}
    if options.samplers_dns:
        resolvers["dns"] = {"hostname": options.samplers_dns, "port": str(options.samplers_port)}
    if options.samplers_kubernetes:
        resolvers["k8s"] = {"service": options.samplers_kubernetes, "ports": [options.samplers_port]}
    if len(resolvers) != 1:
        raise AiobsError(
            "The first tier has to know the second one: expected one of --sampler HOST:PORT (for each), --sampler-dns NAME and "
            f"--sampler-kubernetes SERVICE, got {' and '.join(resolvers) or 'none'}; nothing was written."
        )
    return {
        "routing_key": "traceID",
        "protocol": {"otlp": _tls(options)},
        "resolver": resolvers,
        # Off by default; with them, what a vanished Collector has not taken is routed anew.
        "retry_on_failure": {"enabled": True},
        "sending_queue": {"enabled": True},
    }


def _escaped(value: Any) -> Any:
    """With each `$` doubled: the Collector puts variables in place of `${…}`, and makes one `$` of two."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    if isinstance(value, dict):
        return {name: _escaped(each) for name, each in value.items()}
    return value


def collector_yaml(policy: SamplingPolicy, options: CollectorOptions, *, tier: Tier = "single") -> str:
    """The same as YAML, with what it is and how it can differ in comments at the top.

    Raises:
        NotExpressibleError: As `collector_config`.
        AiobsError: As `collector_config`.
    """
    notes: list[str] = []
    config = collector_config(policy, options, tier=tier, notes=notes)
    body: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return "".join(f"# {line}\n" for line in _header(policy, tier, notes)) + body


def _header(policy: SamplingPolicy, tier: Tier, notes: list[str]) -> list[str]:
    name = json.dumps(policy.name)  # on one line, whatever is in it
    does = {
        "single": f"decides which traces are kept by aiobs' sampling policy {name}",
        "1": "sends all spans of a trace to the same Collector of the second tier",
        "2": f"second tier: decides which traces are kept by aiobs' sampling policy {name}",
    }[tier]
    lines = [
        f"OpenTelemetry Collector: {does}.",
        f"For otelcol-contrib {CONTRIB_VERSION} or later. Made by `aiobs collector sampling`.",
    ]
    if tier != "1":
        lines.append("Processes that send to it: AIOBS_SAMPLING=all, or they decide before it.")
    return [*lines, *notes]
