"""What model providers and their SDKs call things, in OpenTelemetry's names.

For integrations. Everything here is a pure function over a mapping or an object that a provider's SDK made, and runs in
the worker. Names: https://github.com/open-telemetry/semantic-conventions-genai (`gen_ai.provider.name`, `gen_ai.request.*`,
`gen_ai.usage.*`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from aiobs_core import _provider_names as names
from aiobs_core._operation import Usage
from aiobs_core.adapter import first_text

_MAPPINGS: Final = (dict, Mapping)  # the abstract class alone takes ten times as long to ask
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_REPORTS: Final = frozenset(names.USAGE_KEYS)
_TIER_NAMES: Final = frozenset((*names.TIER_KEYS, "speed", "input_token_details"))
_COST_NAMES: Final = frozenset(("cost", "cost_in_usd_ticks", "total_cost"))
_T = TypeVar("_T")


# --- requests -------------------------------------------------------------------------------------------------------


def provider_name(name: str | None) -> str | None:
    """The value of `gen_ai.provider.name` for what a framework calls a provider; unknown names are kept."""
    return names.PROVIDERS.get(name, name) if name else None


def request_params(*sources: Mapping[str, object] | None) -> dict[str, object]:
    """The inference parameters in the sources, under their GenAI names; later sources win, None counts as not given.

    With them the `service_tier` that is asked for. Which one served the call, the answer says: see `service_tier`.
    """
    params: dict[str, object] = {}
    for source in sources:
        if source is None:
            continue
        for holder in filter(source.__contains__, names.PARAM_HOLDERS):
            if type(held := source[holder]) is dict:
                _add_params(held, params)
        _add_params(source, params)
    if "service_tier" in params and (tier := _tier(params.pop("service_tier"))) is not None:
        params["service_tier"] = tier
    return params


def _add_params(source: Mapping[str, object], params: dict[str, object]) -> None:
    for name in filter(names.PARAMS.__contains__, source):
        if (value := source[name]) is not None:
            params[names.PARAMS[name]] = value


def request_model(source: Mapping[str, object]) -> str | None:
    """The model that is asked for, from the arguments of a call or the fields of a client."""
    return first_text(source, names.REQUEST_MODEL_KEYS)


def base_url(source: Mapping[str, object]) -> str | None:
    """The address that a client was given."""
    return first_text(source, names.BASE_URL_KEYS)


# --- responses ------------------------------------------------------------------------------------------------------


def usage_of(reported: object) -> Usage | None:
    """Tokens, from the part of a provider's response that reports them.

    Args:
        reported: A mapping or an object, in the shape of OpenAI, Anthropic, Gemini, Bedrock, Ollama or Cohere.

    Returns:
        What is reported; fields that hold no count are None. None if there is no count at all.
    """
    fields = fields_of(reported)
    usage = _in_known_shape(fields)
    for units in names.NESTED_UNITS:
        if usage is None and (nested := fields.get(units)) is not None:
            usage = _in_known_shape(fields_of(nested))
    return usage


def usage_in(response: object) -> Usage | None:
    """Tokens, from a provider's whole response: a mapping or an object."""
    fields = fields_of(response)
    for key in filter(fields.__contains__, names.USAGE_KEYS):
        reported = fields[key]
        if reported is not None and (usage := usage_of(reported)) is not None:
            return usage
    return usage_of(fields)  # Ollama's


def service_tier(*responses: object) -> str | None:
    """The tier that served a call, from the first response, or report of usage, that names it.

    In the provider's word, in lower case. Anthropic's fast mode is one as well: it says `speed`, and has a price of its own.
    """
    return _first(responses, _TIER_NAMES, _tier_in)


def cost_usd(*responses: object) -> float | None:
    """What a call cost, from the first response, or report of usage, that says so: OpenRouter, xAI, Perplexity."""
    return _first(responses, _COST_NAMES, _cost_in)


def response_fields(response: object) -> Mapping[str, object]:
    """The fields of a provider's response, or of the one that stands in the last event of its stream."""
    fields = fields_of(response)
    if _REPORTS.isdisjoint(fields):
        for holder in filter(fields.__contains__, names.RESPONSE_HOLDERS):
            held = fields[holder]
            if type(held) is not str and not _REPORTS.isdisjoint(inner := fields_of(held)):
                return inner
    return fields


def fields_of(source: object) -> Mapping[str, object]:
    """The fields of a provider's object, as a mapping; a mapping is returned as it is.

    Of an object that keeps its fields elsewhere, such as a protocol buffer, only what this module reads.
    """
    if type(source) is dict or issubclass(type(source), Mapping):  # a foreign `__class__` may raise
        return source  # type: ignore[return-value]  # a mapping, by its class
    if source is None:
        return _NOTHING
    # Pydantic asks several places for an attribute that it does not have: one such costs more than all of this.
    fields, undeclared = _read(source, "__dict__"), _read(source, "__pydantic_extra__")
    if type(fields) is dict and type(undeclared) is dict and undeclared:
        fields = {**fields, **undeclared}
    if type(fields) is dict and not names.READ_NAMES.isdisjoint(fields):
        return fields
    return {name: value for name in names.READ_NAMES if (value := _read(source, name)) is not None}


def finish_reason(*sources: Mapping[str, object] | None) -> str | None:
    """Why the model stopped, as the provider says it in the first source that does."""
    return _text(sources, names.FINISH_KEYS)


def response_model(*sources: Mapping[str, object] | None) -> str | None:
    """The model that answered, from the first source that names it."""
    return _text(sources, names.RESPONSE_MODEL_KEYS)


def response_id(*sources: Mapping[str, object] | None) -> str | None:
    """The provider's id of the response, from the first source that has one."""
    return _text(sources, names.RESPONSE_ID_KEYS)


def _text(sources: Sequence[Mapping[str, object] | None], keys: Sequence[str]) -> str | None:
    for source in sources:
        if isinstance(source, _MAPPINGS) and (found := first_text(source, keys)) is not None:
            return found
    return None


# --- tokens ---------------------------------------------------------------------------------------------------------


def _in_known_shape(fields: Mapping[str, object]) -> Usage | None:
    for shape in names.SHAPES:
        if shape.input not in fields and shape.output not in fields:
            continue
        input_tokens, output_tokens = _count(fields.get(shape.input)), _count(fields.get(shape.output))
        if input_tokens is None and output_tokens is None:
            continue
        found: dict[str, Any] = {}
        _collect(fields, shape.fields, found)
        _complete_writes(found)
        if input_tokens is not None:
            for name in filter(fields.__contains__, shape.more_input):
                input_tokens += _count(fields[name]) or 0
        for name in filter(fields.__contains__, shape.more_output):
            if (more := _count(fields[name])) is not None:  # alone, too: Gemini leaves out a count of nothing
                output_tokens = (output_tokens or 0) + more
        # xAI speaks OpenAI's chat completions but for this: https://docs.x.ai/docs/key-information/consumption-and-rate-limits
        reasoning = found.get("reasoning_tokens")
        if reasoning and input_tokens is not None and output_tokens is not None:
            with_reasoning = output_tokens + reasoning
            if _count(fields.get(shape.total)) == input_tokens + with_reasoning:
                output_tokens = with_reasoning
        return Usage(input_tokens=input_tokens, output_tokens=output_tokens, **found)
    return None


def _collect(source: Mapping[str, object], fields: names.Fields, found: dict[str, Any]) -> None:
    for name in filter(source.__contains__, fields):
        field, value = fields[name], source[name]
        if isinstance(field, str):
            if (count := _count(value)) is not None:
                found.setdefault(field, count)
        elif isinstance(field, names.Parts):
            _add_up(value, field, found)
        elif value is not None:
            _collect(fields_of(value), field, found)


def _add_up(entries: object, parts: names.Parts, found: dict[str, Any]) -> None:
    if type(entries) is not list and type(entries) is not tuple:
        return
    for entry in map(fields_of, entries):
        part, count = _word(entry.get(parts.key)), _count(entry.get(parts.tokens))
        if count is not None and part is not None and (field := parts.fields.get(part)) is not None:
            found[field] = found.get(field, 0) + count


def _complete_writes(found: dict[str, Any]) -> None:
    """The cache writes by their lifetime make up the total, which frameworks then set to 0 lest they are counted twice."""
    by_lifetime = found.pop(names.FIVE_MINUTES, 0) + found.get("cache_write_1h_tokens", 0)
    if by_lifetime > found.get("cache_write_tokens", 0):
        found["cache_write_tokens"] = by_lifetime


def _count(value: object) -> int | None:
    if type(value) is int:
        return value if value >= 0 else None
    # Cohere's SDK declares its counts as floats.
    return int(value) if type(value) is float and value.is_integer() and value >= 0 else None


# --- tier and cost --------------------------------------------------------------------------------------------------


def _first(
    responses: Iterable[object], known: frozenset[str], read: Callable[[Mapping[str, object]], _T | None]
) -> _T | None:
    """What the first of the responses says, itself or in its report of usage; most say nothing, which costs little."""
    for response in responses:
        if response is None:
            continue
        fields = fields_of(response)
        if not known.isdisjoint(fields) and (found := read(fields)) is not None:
            return found
        for key in filter(fields.__contains__, names.USAGE_KEYS):
            report = fields_of(fields[key])
            if not known.isdisjoint(report) and (found := read(report)) is not None:
                return found
    return None


def _tier_in(fields: Mapping[str, object]) -> str | None:
    if "speed" in fields and _tier(fields["speed"]) == "fast":
        return "fast"
    for name in filter(fields.__contains__, names.TIER_KEYS):
        if (tier := _tier(fields[name])) is not None:
            return tier
    if (details := fields.get("input_token_details")) is None:
        return None
    counts = fields_of(details)
    return next((tier for tier in names.PREFIXED_TIERS if _count(counts.get(tier)) is not None), None)


def _tier(said: object) -> str | None:
    word = _word(said)
    if word is None and said is not None:
        word = _word(fields_of(said).get("type"))  # Bedrock's
    if word is None:
        return None
    word = word.lower()
    return names.TIERS.get(word, word) or None


def _word(value: object) -> str | None:
    """A text; also the one that a member of an enumeration is, as in Google's SDK."""
    return str.__str__(value) if issubclass(type(value), str) else None


def _cost_in(fields: Mapping[str, object]) -> float | None:
    # https://docs.x.ai/developers/cost-tracking
    if (ticks := _amount(fields.get("cost_in_usd_ticks"))) is not None:
        return ticks / 1e10
    said = fields.get("cost")
    cost = _amount(said)
    if cost is None:  # Perplexity's is an object; a framework's usage may have the total alone
        cost = _amount((fields if said is None else fields_of(said)).get("total_cost"))
    if cost is None or "cost_details" not in fields:
        return cost
    # With the user's own key OpenRouter charges a fee at most, and the provider charges the rest; frameworks may not pass on
    # whose key it was: https://openrouter.ai/docs/use-cases/usage-accounting
    upstream = _amount(fields_of(fields["cost_details"]).get("upstream_inference_cost")) or 0.0
    own_key = fields.get("is_byok")
    is_own_key = upstream > cost if own_key is None else own_key is True
    return _amount(cost + upstream) if is_own_key else cost


def _amount(value: object) -> float | None:
    if type(value) is not float and type(value) is not int:
        return None
    return float(value) if 0 <= value <= sys.float_info.max else None


def _read(source: object, key: str) -> object:
    try:
        return getattr(source, key, None)
    except Exception:  # noqa: BLE001 (a foreign object's attributes may raise anything: nothing is reported there)
        return None
