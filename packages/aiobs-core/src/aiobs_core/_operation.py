"""The data of one run: what was asked (`Operation`) and what came back (`Outcome`).

Named tuples, not frozen dataclasses: as immutable, and made in a quarter of the time (2.5 µs to 0.7 µs for an
`Operation`), which the worker pays for every run. Make them with keywords; the order of the fields may change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]
Content = Sequence[Mapping[str, object]]
"""Messages in the JSON shape of the GenAI conventions: `[{"role": …, "parts": […]}]`."""

UsageSource = Literal["reported", "estimated", "missing", "cache_hit", "forwarded"]
FORWARDED: Final = "forwarded"
UNSPENT: Final = frozenset({"cache_hit", FORWARDED})
"""Sources of tokens that the call itself has not spent."""
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_NO_ATTRIBUTES: Final[Attributes] = MappingProxyType({})


class _Name(str, Enum):
    """A name that is equal to its text, and hashed like it: `Enum` hashes in Python code, `str` does not."""

    __hash__ = str.__hash__


class Kind(_Name):
    """What ran."""

    WORKFLOW = "workflow"
    AGENT = "agent"
    MODEL = "model"
    TOOL = "tool"
    RETRIEVER = "retriever"
    RERANKER = "reranker"
    EMBEDDING = "embedding"
    CHAIN = "chain"
    PROMPT = "prompt"
    PARSER = "parser"
    GUARDRAIL = "guardrail"
    EVALUATOR = "evaluator"
    REQUEST = "request"  # as a server takes it: HTTP, RPC
    STAGE = "stage"  # a part of a request that no framework reports
    PRODUCER = "producer"  # a message is sent
    CONSUMER = "consumer"  # one is worked on


class Stage(_Name):
    """Part of a request that a run belongs to; an attribute of spans, not a level of the tree."""

    PROMPT_RECEIVE = "prompt_receive"
    PRE_PROCESS = "pre_process"
    MODEL_INFERENCE = "model_inference"
    EXTERNAL_API = "external_api"
    POST_PROCESS = "post_process"
    RESPONSE_SEND = "response_send"


class RunStatus(_Name):
    """How a run ended. Only `ERROR` sets the span's status to ERROR and counts as an error."""

    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"  # the caller gave up: task.cancel(), a timeout around the call
    ABANDONED = "abandoned"  # nobody waited for the end: a broken-off stream, a dead thread
    INTERRUPTED = "interrupted"  # paused on purpose, waiting for a person
    TIMED_OUT = "timed_out"  # no end was seen within the TTL


class Usage(NamedTuple):
    """Tokens of one model call. None is unknown; 0 is a count.

    `input_tokens` includes cache reads and writes, `output_tokens` includes reasoning, as the GenAI conventions say. All
    others are parts of these two, counted apart where they have a price of their own.

    Attributes:
        input_tokens: All that went in.
        output_tokens: All that came out.
        cache_read_tokens: Input that was read from the provider's cache.
        cache_write_tokens: Input that was written to it, for however long.
        cache_write_1h_tokens: Part of `cache_write_tokens`: what is kept for an hour, at a higher price than 5 minutes.
        cache_read_audio_tokens: Part of `cache_read_tokens`: audio.
        reasoning_tokens: Output that the model kept to itself.
        audio_input_tokens: Input of audio, cached or not.
        audio_output_tokens: Output of audio.
        image_input_tokens: Input of images, cached or not.
        image_output_tokens: Output of images.
        source: Who counted. `forwarded`: these are the tokens of a model call inside, whose answer was handed on; set by the
            recorder, and counted there only.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    cache_read_audio_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    image_input_tokens: int | None = None
    image_output_tokens: int | None = None
    source: UsageSource = "reported"


class Operation(NamedTuple):
    """What was asked of a model, tool, retriever, agent, …

    Everything here may leave the process, after the detectors of the privacy policy, except `content`, `params`,
    `metadata` and `user_id`. `params` and `metadata` pass an allow-list. `content` and `user_id` leave as the policy says,
    by default not at all, or as a keyed hash.

    Attributes:
        kind: What runs.
        name: The tool, agent, workflow, node or function; for a model its class or the model name.
        action: The GenAI operation name where `kind` does not settle it, such as `text_completion`.
        stage: Part of the request, if other than the one `kind` implies.
        provider: As in `gen_ai.provider.name`.
        model: Model that is asked for.
        endpoint: Base URL; only host and port are used.
        params: Inference parameters under their GenAI names (`temperature`, `max_tokens`, …) and the `service_tier` that
            is asked for; others are ignored.
        agent: Agent that the run belongs to.
        conversation_id: Conversation or thread, as the application names it.
        request_id: Request, as the application names it.
        metadata: The application's metadata; only keys in `Settings.metadata_keys` are emitted.
        attributes: Further attributes, by names of `aiobs_core.semconv`.
        user_id: User, as the application names it.
        content: What went in, read by the worker and only if the policy asks for it. Of a model: messages (`Content`); of
            a tool: its arguments, as any JSON value; of a retriever or reranker: the query; of an embedding: its texts.
        parent_kind: What this run proves about its parent (a graph node's parent is a graph).
        resumes: True if the run continues a paused one of the same conversation.
        inside: Attributes of the runs directly inside, which their own callbacks do not tell.
        attempt_of: Siblings with the same value are attempts of the same thing; numbered from the second on, since
            the first has been exported before anybody can know that there is another.
    """

    kind: Kind
    name: str
    action: str | None = None
    stage: Stage | None = None
    provider: str | None = None
    model: str | None = None
    endpoint: str | None = None
    params: Mapping[str, object] = _NOTHING
    agent: str | None = None
    conversation_id: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    metadata: Mapping[str, object] = _NOTHING
    attributes: Attributes = _NO_ATTRIBUTES
    content: Callable[[], Any] | None = None
    parent_kind: Kind | None = None
    resumes: bool = False
    attempt_of: Hashable | None = None
    inside: Attributes = _NO_ATTRIBUTES


class Outcome(NamedTuple):
    """What came back.

    Attributes:
        usage: Tokens, or None where the kind of run has none.
        model: Model that answered, as the provider names it.
        response_id: The provider's id of the response.
        finish_reasons: One per choice.
        attributes: Further attributes, by names of `aiobs_core.semconv`.
        content: What came out, in the same way. Of a model: messages; of a tool: its result; of a retriever or reranker:
            documents, as in `aiobs_core.adapter.documents`.
        status: How it ended, where the verb does not settle it: a tool that returned an error, a paused graph.
        error_type: Class name of an error that the framework handled.
        events: Names of span events to add at the end.
        service_tier: The tier that served the call, in the provider's word: `default`, `flex`, `priority`, `batch`,
            `standard`, … Prices differ by it, and it may be another than the request asked for.
        cost_usd: What the call cost, where a gateway, tool or retriever says so itself: no price list knows better. What is
            negative or not finite is no cost.
    """

    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    attributes: Attributes = _NO_ATTRIBUTES
    content: Callable[[], Any] | None = None
    status: RunStatus | None = None
    error_type: str | None = None
    events: tuple[str, ...] = ()
    service_tier: str | None = None
    cost_usd: float | None = None
