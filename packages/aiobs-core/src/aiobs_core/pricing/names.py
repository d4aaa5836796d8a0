"""What else providers and models are called: by OpenTelemetry, frameworks, gateways and clouds.

The table resolves most names itself. What is here is tried where it does not; no name is guessed: one that could as well
be another model, or another price, has no cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from aiobs_core.pricing.table import Provider, Table
from aiobs_core.providers import provider_name

_TABLE_IDS: Final = {  # OpenTelemetry's and LiteLLM's names → the table's, where its own rules do not lead there
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "azure_ai": "azure",
    "fireworks_ai": "fireworks",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}
_SPEAKS_ONLY: Final = re.compile(
    r"like|compatible"
)  # `openai_like` says how a server is talked to, not who runs it
_MORE_ADDRESSES: Final = (  # (host, id): addresses that the table's patterns leave out
    (re.compile(r"bedrock-runtime(-fips)?\.[a-z0-9-]+\.(vpce\.)?amazonaws\.com(\.cn)?$"), "aws"),
    (re.compile(r"api\.together\.ai$"), "together"),
    (re.compile(r"codestral\.mistral\.ai$"), "mistral"),
)
# A file on this machine, whatever it is called.
_LOCAL_FILE: Final = re.compile(
    r"\.(gguf|ggml|safetensors|bin)$|^(/|\./|\.\./|~/|file:|[A-Za-z]:[\\/])", re.IGNORECASE
)
_FINE_TUNE: Final = re.compile(r"^ft:")
_BEDROCK_ARN: Final = re.compile(
    r"^arn:aws[\w-]*:bedrock:[^:]*:[^:]*:(foundation-model|inference-profile)/(.+)$"
)
_BEDROCK_REGION: Final = re.compile(r"^(us|us-gov|eu|apac|au|jp|ca|sa|global)\.(?=[a-z0-9-]+\.)")
_RESOURCE_PATH: Final = re.compile(r"^(projects/[^/]+/locations/[^/]+/)?(publishers/[^/]+/)?models/(.+)$")
_VERTEX_VERSION: Final = re.compile(r"@([\w.-]+)$")
_PLUGIN: Final = re.compile(
    r":online$"
)  # OpenRouter's search plug-in: its fee comes on top and is not counted


class Spelling(NamedTuple):
    """Another way to write a model's name, and how it was found; `provider` where the name tells who is asked."""

    model: str
    note: str = ""
    provider: str | None = None


def table_provider(table: Table, name: str) -> Provider | None:
    """The table's provider for the name that OpenTelemetry, a framework or a gateway has for it."""
    lower = name.strip().lower()
    if _SPEAKS_ONLY.search(lower):
        return None
    standard = provider_name(lower) or lower
    if standard in _TABLE_IDS:
        return table.providers.get(_TABLE_IDS[standard])
    if "azure" in lower:  # before the table's rules, which take whatever has `openai` in it for OpenAI
        return table.providers.get("azure")
    return table.provider_named(lower)


def provider_at(table: Table, endpoint: str, preferred: str | None) -> Provider | None:
    """Whose address it is; None for one that the table does not know, such as a local server or a gateway.

    Args:
        table: The table.
        endpoint: A base URL, or a host.
        preferred: Id of the provider to take if several share the address.
    """
    url = address(endpoint)
    found = list(table.providers_at("https://" + url))
    if found:
        return next((each for each in found if each.id == preferred), found[0])
    host = url.partition("/")[0].partition(":")[0]
    return next((table.providers.get(id_) for pattern, id_ in _MORE_ADDRESSES if pattern.search(host)), None)


def address(endpoint: str) -> str:
    """Host in small letters, port and path of a URL, without what else it may hold."""
    rest = endpoint.strip().partition("://")[2] or endpoint.strip()
    rest = re.split(r"[?#]", rest, maxsplit=1)[0].rstrip("/")
    host, slash, path = rest.partition("/")
    return host.rpartition("@")[2].lower().removesuffix(":443") + slash + path


def is_ones_own(model: str) -> bool:
    """Whether a model is the user's own, so that no other's name may stand for it: a local file, a fine-tune."""
    return bool(_LOCAL_FILE.search(model) or _FINE_TUNE.search(model))


def is_local_file(model: str) -> bool:
    """Whether a model's name is that of a file."""
    return _LOCAL_FILE.search(model) is not None


def spellings(model: str, *, table: Table, provider: Provider | None) -> Iterator[Spelling]:
    """Names to look for, the given one first.

    Args:
        model: As it was asked for or answered.
        table: Says which prefixes are providers.
        provider: Who was called, if that is known: a prefix that says someone else is then not believed.
    """
    yield Spelling(model)
    if is_ones_own(model):
        return
    whose = None if provider is None else provider.id
    names = [Spelling(model, provider=whose)]
    for peel in (_without_prefix, _from_arn, _from_path, _without_region, _without_version, _without_plugin):
        for name in list(names):
            if (found := peel(name, table)) is not None and (provider is None or found.provider == whose):
                names.append(found)
                yield found


def _without_prefix(name: Spelling, table: Table) -> Spelling | None:
    """`azure/gpt-4o`, `bedrock/us-east-1/anthropic.claude-v2`, `openrouter/openai/gpt-4o`: LiteLLM's way to say whom to ask."""
    first, slash, rest = name.model.partition("/")
    if not slash or not rest or first.startswith("arn:"):
        return None
    asked = table_provider(table, first)
    if asked is None:
        return None
    if asked.id == "aws":
        rest = rest.removeprefix("converse/").removeprefix("invoke/")
        rest = re.sub(r"^[a-z]{2}(-[a-z]+)+-\d/", "", rest)
    return Spelling(rest, f"the prefix {first}/ says that {asked.id} is asked", asked.id)


def _from_arn(name: Spelling, _: Table) -> Spelling | None:
    found = _BEDROCK_ARN.match(name.model)
    return found and Spelling(found[2], "an ARN of Bedrock names the model", "aws")


def _from_path(name: Spelling, _: Table) -> Spelling | None:
    found = _RESOURCE_PATH.match(name.model)
    if found is None:
        return None
    whose = name.provider or "google"
    return Spelling(found[3], "a resource path of Google names the model", whose)


def _without_region(name: Spelling, _: Table) -> Spelling | None:
    if name.provider not in (None, "aws") or not (found := _BEDROCK_REGION.match(name.model)):
        return None
    return Spelling(
        name.model[found.end() :], f"{found[0]} is a region of an inference profile of Bedrock", "aws"
    )


def _without_version(name: Spelling, _: Table) -> Spelling | None:
    if name.provider not in (None, "google") or not (found := _VERTEX_VERSION.search(name.model)):
        return None
    version = f"-{found[1]}" if re.fullmatch(r"20\d{6}", found[1]) else ""
    return Spelling(
        name.model[: found.start()] + version, f"@{found[1]} is a version on Vertex AI", name.provider
    )


def _without_plugin(name: Spelling, _: Table) -> Spelling | None:
    found = _PLUGIN.search(name.model)
    return found and name._replace(
        model=name.model[: found.start()], note="the search of :online is not priced"
    )
