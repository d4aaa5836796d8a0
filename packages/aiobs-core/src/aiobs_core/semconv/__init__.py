"""Every name aiobs emits: attributes, span events and instrumentation scope, each with type, unit and source.

Metrics and their attributes are in `aiobs_core.semconv.metrics`.

Code, docs, dashboards and tests read names from here and write none of their own. `docs/semantic-conventions.md`
is generated from `ATTRIBUTES` and `EVENTS`. `gen_ai.*` names follow the OpenTelemetry GenAI conventions; the
generation (1.41, or the ones after the move to `semantic-conventions-genai`) is chosen by `AIOBS_SEMCONV`.
"""

from __future__ import annotations

from typing import Final

from aiobs_core.semconv._registry import ATTRIBUTES as ATTRIBUTES
from aiobs_core.semconv._registry import EVENTS as EVENTS
from aiobs_core.semconv._registry import Attribute as Attribute
from aiobs_core.semconv._registry import Event as Event
from aiobs_core.semconv._registry import Generation as Generation
from aiobs_core.semconv._registry import event as _event
from aiobs_core.semconv._registry import gen_ai as _gen_ai
from aiobs_core.semconv._registry import openinference as _openinference
from aiobs_core.semconv._registry import otel as _otel
from aiobs_core.semconv._registry import own as _own

SCHEMA_URL_1_41: Final = "https://opentelemetry.io/schemas/1.41.0"
SCOPE_PREFIX: Final = "aiobs."  # the instrumentation scope of an adapter's spans: "aiobs.langchain"
RETRY_HEADER: Final = (
    "aiobs-retry"  # of a message that is sent again: its first attempt, and the number of this one
)

# --- ai.agent.*: what a run was -----------------------------------------------------------------------------
SPAN_KIND = _own("ai.agent.span.kind", "string", "What ran: workflow, agent, model, tool, retriever, …")
STAGE = _own("ai.agent.stage", "string", "Part of the request: pre_process, model_inference, external_api, …")
OUTCOME = _own(
    "ai.agent.outcome", "string", "How it ended: success, error, cancelled, abandoned, interrupted, …"
)
FRAMEWORK = _own("ai.agent.framework", "string", "Framework the run was observed in, such as langchain")
AGENT_NAME = _own("ai.agent.name", "string", "Name of the agent that ran, or that the run belongs to")
REQUEST_ID = _own(
    "ai.agent.request.id",
    "string",
    "Id of the whole request: the application's, else the trace id (on the root only)",
)
SESSION_ID = _own("ai.agent.session.id", "string", "Id of the conversation or session")
USER_ID = _own(
    "ai.agent.user.id", "string", "Keyed hash of the user's id, unless the policy allows it in the clear"
)
TENANT_ID = _own("ai.agent.tenant.id", "string", "Tenant, in the form that the policy allows for user ids")
MASKED_COUNT = _own("ai.agent.privacy.masked_count", "int", "Values that were masked in this span", "{value}")
TAGS = _own("ai.agent.tags", "string[]", "Tags set by using_attributes()")
PROMPT_NAME = _own("ai.agent.prompt.name", "string", "Name of the prompt in the application's registry")
PROMPT_VERSION = _own("ai.agent.prompt.version", "string", "Version of that prompt")
METADATA_PREFIX: Final = _own(
    "ai.agent.metadata", "string", "Prefix: one attribute per allow-listed metadata key"
)
GRAPH_NODE = _own("ai.agent.graph.node", "string", "Node of the graph that ran")
GRAPH_STEP = _own("ai.agent.graph.step", "int", "Step of the graph in which the node ran")
RETRY_ATTEMPT = _own(
    "ai.agent.retry.attempt", "int", "Attempt number of a retried operation, from the second attempt on"
)
RESUME_WAIT_S = _own(
    "ai.agent.resume.wait_s", "double", "Time a paused run waited before it was resumed", "s"
)
INTERRUPT_ID = _own("ai.agent.interrupt.id", "string", "Id of the interrupt that paused the run")
LINK_REASON = _own("ai.agent.link.reason", "string", "Why a span link exists: resume, retry, batch")
SUPPRESSED_ERROR = _own(
    "ai.agent.suppressed_error",
    "string",
    "Class of an error inside the run that was handled, so that the run itself succeeded",
)
TELEMETRY_ERROR = _own(
    "ai.agent.telemetry.error", "string", "aiobs could not read this run fully: the error's type"
)

SAMPLING_REASON = _own(
    "ai.agent.sampling.reason", "string", "Rule of the sampling policy that kept the trace"
)
SAMPLING_ADJUSTED_COUNT = _own(
    "ai.agent.sampling.adjusted_count",
    "double",
    "How many traces this one stands for: 1 / probability",
    "{trace}",
)
SAMPLING_INCOMPLETE = _own(
    "ai.agent.sampling.incomplete", "boolean", "The trace was dropped, then kept: its first spans are missing"
)
SAMPLING_KEEP = _own(
    "ai.agent.sampling.keep",
    "boolean",
    "The application wants the trace kept; also the key of the baggage for it",
)

# --- ai.agent.*: model calls --------------------------------------------------------------------------------
PROVIDER_NAME = _own(
    "ai.agent.provider.name", "string", "Who serves the model: openai, anthropic, aws.bedrock, …"
)
MODEL_NAME = _own("ai.agent.model.name", "string", "Model that was asked for")
MODEL_VERSION = _own("ai.agent.model.version", "string", "Model that answered, as the provider names it")
MODEL_TEMPERATURE = _own("ai.agent.model.temperature", "double", "Sampling temperature")
MODEL_MAX_TOKENS = _own("ai.agent.model.max_tokens", "int", "Limit of output tokens", "{token}")
USAGE_INPUT_TOKENS = _own(
    "ai.agent.usage.input_tokens", "int", "Input tokens, cached ones included", "{token}"
)
USAGE_OUTPUT_TOKENS = _own(
    "ai.agent.usage.output_tokens", "int", "Output tokens, reasoning included", "{token}"
)
USAGE_CACHE_READ_TOKENS = _own(
    "ai.agent.usage.cache_read_tokens", "int", "Input tokens read from a cache", "{token}"
)
USAGE_CACHE_WRITE_TOKENS = _own(
    "ai.agent.usage.cache_write_tokens", "int", "Input tokens written to a cache", "{token}"
)
USAGE_REASONING_TOKENS = _own(
    "ai.agent.usage.reasoning_tokens", "int", "Output tokens spent on reasoning", "{token}"
)
USAGE_AUDIO_INPUT_TOKENS = _own(
    "ai.agent.usage.audio_input_tokens", "int", "Input tokens of audio", "{token}"
)
USAGE_AUDIO_OUTPUT_TOKENS = _own(
    "ai.agent.usage.audio_output_tokens", "int", "Output tokens of audio", "{token}"
)
USAGE_CACHE_WRITE_1H_TOKENS = _own(
    "ai.agent.usage.cache_write_1h_tokens",
    "int",
    "Of the tokens written to a cache, those kept for an hour",
    "{token}",
)
USAGE_CACHE_READ_AUDIO_TOKENS = _own(
    "ai.agent.usage.cache_read_audio_tokens",
    "int",
    "Of the tokens read from a cache, those of audio",
    "{token}",
)
USAGE_IMAGE_INPUT_TOKENS = _own(
    "ai.agent.usage.image_input_tokens", "int", "Input tokens of images", "{token}"
)
USAGE_IMAGE_OUTPUT_TOKENS = _own(
    "ai.agent.usage.image_output_tokens", "int", "Output tokens of images", "{token}"
)
SERVICE_TIER = _own(
    "ai.agent.service_tier",
    "string",
    "Tier that served the call, in the provider's word: batch, flex, priority, …",
)
USAGE_SOURCE = _own(
    "ai.agent.usage.source",
    "string",
    "reported, estimated, missing, cache_hit, or forwarded: the tokens are those of a model call inside",
)
TIME_TO_FIRST_CHUNK_S = _own("ai.agent.time_to_first_chunk_s", "double", "Start to first streamed chunk", "s")
CHUNK_COUNT = _own("ai.agent.chunk.count", "int", "Streamed chunks received", "{chunk}")

# --- ai.agent.*: money --------------------------------------------------------------------------------------
COST_USD = _own(
    "ai.agent.cost_usd",
    "double",
    "What this call cost by itself; of a tool or retriever, what it reports. Sums over spans count nothing twice",
    "{USD}",
)
COST_INPUT_USD = _own(
    "ai.agent.cost.input_usd", "double", "Part of it for input that was not cached", "{USD}"
)
COST_CACHED_USD = _own("ai.agent.cost.cached_usd", "double", "Part of it for cache reads", "{USD}")
COST_CACHE_WRITE_USD = _own("ai.agent.cost.cache_write_usd", "double", "Part of it for cache writes", "{USD}")
COST_OUTPUT_USD = _own("ai.agent.cost.output_usd", "double", "Part of it for output", "{USD}")
COST_REASONING_USD = _own("ai.agent.cost.reasoning_usd", "double", "Part of it for reasoning", "{USD}")
COST_OTHER_USD = _own(
    "ai.agent.cost.other_usd", "double", "Part of it for fees by request or search", "{USD}"
)
COST_SOURCE = _own(
    "ai.agent.cost.source",
    "string",
    "Where the price is from: `table <date of the row>`, `file <date>`, or `reported` by the call itself",
)
COST_TOTAL_USD = _own(
    "ai.agent.cost.total_usd",
    "double",
    "What this run and all inside it cost; of whole requests and of runs with calls inside, and never to be summed",
    "{USD}",
)
COST_UNPRICED_CALLS = _own(
    "ai.agent.cost.unpriced_calls",
    "int",
    "Model calls among them whose price is not known: missing from the total",
    "{call}",
)

BUDGET_NAME = _own("ai.agent.budget.name", "string", "Budget that was crossed: request, hour or day")
BUDGET_LIMIT_USD = _own("ai.agent.budget.limit_usd", "double", "The budget", "{USD}")
BUDGET_SPENT_USD = _own("ai.agent.budget.spent_usd", "double", "What had been spent of it by then", "{USD}")

# --- ai.agent.*: counts and sizes of content that stays in the process ----------------------------------------
INPUT_MESSAGE_COUNT = _own("ai.agent.input.message_count", "int", "Messages sent to the model", "{message}")
INPUT_SIZE_CHARS = _own("ai.agent.input.size_chars", "int", "Characters of text sent", "{character}")
OUTPUT_SIZE_CHARS = _own("ai.agent.output.size_chars", "int", "Characters of text received", "{character}")
OUTPUT_TOOL_CALL_COUNT = _own(
    "ai.agent.output.tool_call_count", "int", "Tool calls the model asked for", "{call}"
)
EMBEDDING_TEXT_COUNT = _own("ai.agent.embedding.text_count", "int", "Texts embedded in one call", "{text}")
EMBEDDING_DIMENSION_COUNT = _own(
    "ai.agent.embedding.dimension_count", "int", "Dimensions of a vector", "{dimension}"
)
DOCUMENT_COUNT = _own("ai.agent.retrieval.document_count", "int", "Documents returned", "{document}")

# --- ai.agent.*: privacy -------------------------------------------------------------------------------------
PROMPT_HASH = _own("ai.agent.prompt.hash", "string", "Keyed hash of the prompt: `<key id>:<32 hex digits>`")
COMPLETION_HASH = _own("ai.agent.completion.hash", "string", "Keyed hash of the completion")
SYSTEM_HASH = _own("ai.agent.system_prompt.hash", "string", "Keyed hash of the system prompt")
TOOL_ARGUMENTS_HASH = _own("ai.agent.tool.arguments.hash", "string", "Keyed hash of a tool's arguments")
TOOL_RESULT_HASH = _own("ai.agent.tool.result.hash", "string", "Keyed hash of a tool's result")
DOCUMENTS_HASH = _own("ai.agent.retrieval.documents.hash", "string", "Keyed hash of the documents returned")
EMBEDDING_TEXTS_HASH = _own("ai.agent.embedding.texts.hash", "string", "Keyed hash of the texts embedded")
EMBEDDING_TEXTS = _own("ai.agent.embedding.texts", "string", "The texts embedded, as a JSON array")
CONTENT_REF = _own(
    "ai.agent.content.ref",
    "string",
    "File with the masked content that was too long for an attribute, in the store's folder",
)
PRIVACY_POLICY = _own(
    "ai.agent.privacy.policy", "string", "Policy in force, where it is not the process's own"
)
MASKED_VALUES = _own(
    "ai.agent.privacy.masked", "string[]", "What was masked in this span: `<field>:<detector>`"
)

# --- ai.agent.*: calls to the outside -----------------------------------------------------------------------
API_NAME = _own("ai.agent.api.name", "string", "Tool or API that was called")
ENDPOINT = _own(
    "ai.agent.endpoint", "string", "Host and port of the endpoint; never path, query or credentials"
)
STATUS_CODE = _own(
    "ai.agent.status_code", "int", "HTTP status of a call: of a failed model call as its exception carries it"
)

# --- gen_ai.* -----------------------------------------------------------------------------------------------
GEN_AI_OPERATION_NAME = _gen_ai("gen_ai.operation.name", "string", "chat, execute_tool, invoke_agent, …")
GEN_AI_PROVIDER_NAME = _gen_ai("gen_ai.provider.name", "string", "Provider")
GEN_AI_REQUEST_MODEL = _gen_ai("gen_ai.request.model", "string", "Model that was asked for")
GEN_AI_REQUEST_TEMPERATURE = _gen_ai("gen_ai.request.temperature", "double", "Temperature")
GEN_AI_REQUEST_MAX_TOKENS = _gen_ai("gen_ai.request.max_tokens", "int", "Output limit", "{token}")
GEN_AI_REQUEST_TOP_P = _gen_ai("gen_ai.request.top_p", "double", "Nucleus sampling")
GEN_AI_REQUEST_TOP_K = _gen_ai("gen_ai.request.top_k", "int", "Top-k sampling")
GEN_AI_REQUEST_FREQUENCY_PENALTY = _gen_ai("gen_ai.request.frequency_penalty", "double", "Frequency penalty")
GEN_AI_REQUEST_PRESENCE_PENALTY = _gen_ai("gen_ai.request.presence_penalty", "double", "Presence penalty")
GEN_AI_REQUEST_SEED = _gen_ai("gen_ai.request.seed", "int", "Seed")
GEN_AI_REQUEST_CHOICE_COUNT = _gen_ai("gen_ai.request.choice.count", "int", "Choices asked for, if not 1")
GEN_AI_REQUEST_STREAM = _gen_ai(
    "gen_ai.request.stream", "boolean", "Whether chunks were streamed", None, "latest"
)
GEN_AI_REQUEST_REASONING_LEVEL = _gen_ai(
    "gen_ai.request.reasoning.level", "string", "Reasoning effort asked for", None, "latest"
)
GEN_AI_RESPONSE_ID = _gen_ai("gen_ai.response.id", "string", "Id of the response")
GEN_AI_RESPONSE_MODEL = _gen_ai("gen_ai.response.model", "string", "Model that answered")
GEN_AI_RESPONSE_FINISH_REASONS = _gen_ai("gen_ai.response.finish_reasons", "string[]", "One per choice")
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK = _gen_ai(
    "gen_ai.response.time_to_first_chunk", "double", "Time to first chunk", "s", "latest"
)
GEN_AI_USAGE_INPUT_TOKENS = _gen_ai(
    "gen_ai.usage.input_tokens", "int", "Input tokens, cached included", "{token}"
)
GEN_AI_USAGE_OUTPUT_TOKENS = _gen_ai("gen_ai.usage.output_tokens", "int", "Output tokens", "{token}")
GEN_AI_USAGE_CACHE_READ = _gen_ai(
    "gen_ai.usage.cache_read.input_tokens", "int", "Input tokens read from a cache", "{token}"
)
GEN_AI_USAGE_CACHE_CREATION = _gen_ai(
    "gen_ai.usage.cache_creation.input_tokens", "int", "Input tokens written to a cache", "{token}", "1.41"
)
GEN_AI_USAGE_CACHE_WRITE = _gen_ai(
    "gen_ai.usage.cache_write.input_tokens", "int", "Input tokens written to a cache", "{token}", "latest"
)
GEN_AI_USAGE_REASONING = _gen_ai(
    "gen_ai.usage.reasoning.output_tokens", "int", "Reasoning tokens", "{token}", "latest"
)
GEN_AI_EMBEDDINGS_DIMENSION_COUNT = _gen_ai(
    "gen_ai.embeddings.dimension.count", "int", "Dimensions of a vector"
)
GEN_AI_CONVERSATION_ID = _gen_ai("gen_ai.conversation.id", "string", "Conversation; never made up")
GEN_AI_AGENT_NAME = _gen_ai("gen_ai.agent.name", "string", "Agent")
GEN_AI_WORKFLOW_NAME = _gen_ai("gen_ai.workflow.name", "string", "Workflow")
GEN_AI_EVALUATION_NAME = _gen_ai("gen_ai.evaluation.name", "string", "What was scored, such as `helpfulness`")
GEN_AI_EVALUATION_SCORE = _gen_ai("gen_ai.evaluation.score.value", "double", "The score")
GEN_AI_EVALUATION_LABEL = _gen_ai(
    "gen_ai.evaluation.score.label", "string", "The score in a word, such as `pass`"
)
GEN_AI_TOOL_NAME = _gen_ai("gen_ai.tool.name", "string", "Tool")
GEN_AI_TOOL_TYPE = _gen_ai("gen_ai.tool.type", "string", "function, extension or datastore")
GEN_AI_TOOL_CALL_ID = _gen_ai("gen_ai.tool.call.id", "string", "Id of the tool call")
GEN_AI_DATA_SOURCE_ID = _gen_ai("gen_ai.data_source.id", "string", "Vector store or other source")
GEN_AI_PROMPT_NAME = _gen_ai("gen_ai.prompt.name", "string", "Prompt")
# Content, where the privacy policy lets it out; in every dialect, since no other has names for it.
GEN_AI_INPUT_MESSAGES = _gen_ai("gen_ai.input.messages", "string", "Messages sent, as JSON: roles and parts")
GEN_AI_OUTPUT_MESSAGES = _gen_ai("gen_ai.output.messages", "string", "Messages received, as JSON")
GEN_AI_TOOL_CALL_ARGUMENTS = _gen_ai("gen_ai.tool.call.arguments", "string", "Arguments of the call, as JSON")
GEN_AI_TOOL_CALL_RESULT = _gen_ai("gen_ai.tool.call.result", "string", "Result of the call, as JSON")
GEN_AI_RETRIEVAL_QUERY_TEXT = _gen_ai("gen_ai.retrieval.query.text", "string", "Query")
GEN_AI_RETRIEVAL_DOCUMENTS = _gen_ai("gen_ai.retrieval.documents", "string", "Documents returned, as JSON")

# --- stable OpenTelemetry -----------------------------------------------------------------------------------
ERROR_TYPE = _otel("error.type", "string", "Class of the error; never its message")
HTTP_REQUEST_METHOD = _otel("http.request.method", "string", "Method; _OTHER for one that HTTP does not know")
HTTP_RESPONSE_STATUS_CODE = _otel("http.response.status_code", "int", "Status of the answer")
HTTP_ROUTE = _otel("http.route", "string", "Pattern of the path that the framework matched")
URL_PATH = _otel("url.path", "string", "Path without the query")
URL_SCHEME = _otel("url.scheme", "string", "http, https, ws or wss")
MESSAGING_SYSTEM = _otel(
    "messaging.system", "string", "Broker: kafka, rabbitmq, aws_sqs, redis, nats, celery, …"
)
MESSAGING_OPERATION_NAME = _otel(
    "messaging.operation.name", "string", "What was done with the message: send or process"
)
MESSAGING_OPERATION_TYPE = _otel(
    "messaging.operation.type", "string", "The same, in the words of the conventions"
)
MESSAGING_DESTINATION_NAME = _otel("messaging.destination.name", "string", "Queue, topic, stream or subject")
MESSAGING_DESTINATION_ANONYMOUS = _otel(
    "messaging.destination.anonymous", "boolean", "True where the broker made the name up"
)
MESSAGING_MESSAGE_ID = _otel(
    "messaging.message.id", "string", "Id of the message, where the application gives it"
)
MESSAGING_BATCH_MESSAGE_COUNT = _otel(
    "messaging.batch.message_count", "int", "Messages that were worked on at once"
)
MESSAGING_CONSUMER_GROUP_NAME = _otel(
    "messaging.consumer.group.name", "string", "Group that the consumer belongs to"
)
RPC_GRPC_STATUS_CODE = _otel(
    "rpc.grpc.status_code", "int", "Status of a gRPC call, of the spans of its instrumentation"
)
SERVER_ADDRESS = _otel("server.address", "string", "Host of the endpoint")
SERVER_PORT = _otel("server.port", "int", "Port of the endpoint")
EXCEPTION_TYPE = _otel("exception.type", "string", "Class of a recorded exception")
EXCEPTION_MESSAGE = _otel("exception.message", "string", "Its message, where the policy lets it out")
EXCEPTION_STACKTRACE = _otel("exception.stacktrace", "string", "Its stack, where the policy lets it out")

# --- OpenInference (AIOBS_DIALECTS=openinference) --------------------------------------------------------------
OI_SPAN_KIND = _openinference("openinference.span.kind", "string", "LLM, TOOL, CHAIN, AGENT, RETRIEVER, …")
OI_LLM_MODEL_NAME = _openinference("llm.model_name", "string", "Model")
OI_LLM_PROVIDER = _openinference("llm.provider", "string", "Provider")
OI_TOKENS_PROMPT = _openinference("llm.token_count.prompt", "int", "Input tokens")
OI_TOKENS_COMPLETION = _openinference("llm.token_count.completion", "int", "Output tokens")
OI_TOKENS_TOTAL = _openinference("llm.token_count.total", "int", "Input and output tokens")
OI_TOKENS_CACHE_READ = _openinference(
    "llm.token_count.prompt_details.cache_read", "int", "Cached input tokens"
)
OI_TOKENS_CACHE_WRITE = _openinference(
    "llm.token_count.prompt_details.cache_write", "int", "Input tokens written to a cache"
)
OI_TOKENS_REASONING = _openinference(
    "llm.token_count.completion_details.reasoning", "int", "Reasoning tokens"
)
OI_TOOL_NAME = _openinference("tool.name", "string", "Tool")
OI_EMBEDDING_MODEL = _openinference("embedding.model_name", "string", "Embedding model")
OI_RERANKER_MODEL = _openinference("reranker.model_name", "string", "Reranker model")
OI_AGENT_NAME = _openinference("agent.name", "string", "Agent")
OI_SESSION_ID = _openinference("session.id", "string", "Session")
OI_USER_ID = _openinference("user.id", "string", "User, hashed unless the policy allows otherwise")
OI_INPUT_VALUE = _openinference("input.value", "string", "What went in, as the content attributes say it")
OI_OUTPUT_VALUE = _openinference("output.value", "string", "What came out, as the content attributes say it")
OI_INPUT_MIME_TYPE = _openinference("input.mime_type", "string", "application/json or text/plain")
OI_OUTPUT_MIME_TYPE = _openinference("output.mime_type", "string", "application/json or text/plain")
OI_TAGS = _openinference("tag.tags", "string[]", "Tags")
OI_GRAPH_NODE_ID = _openinference("graph.node.id", "string", "Graph node")

# --- span events ----------------------------------------------------------------------------------------------
EVENT_INTERRUPT = _event("ai.agent.interrupt", "A graph paused and waits for a person")
EVENT_RESUME = _event("ai.agent.resume", "A paused graph goes on")
EVENT_HANDOFF = _event("ai.agent.handoff", "Control went to another agent or graph")
EVENT_RETRY = _event("ai.agent.retry", "The framework is about to try again")
EVENT_BUDGET_EXCEEDED = _event(
    "ai.agent.budget.exceeded", "A budget was crossed by the call that this span is of; nothing is blocked"
)
EVENT_CUSTOM_PREFIX: Final = _event(
    "ai.agent.custom", "Prefix: an event the application dispatched, by its name"
)
EVENT_EVALUATION = _event("gen_ai.evaluation.result", "A score, as `feedback` or an evaluator gave it")
EVENT_EXCEPTION = _event(
    "exception",
    "An exception was recorded on the span: its type, and as much of its text as the policy lets out",
)

GEN_AI_OPERATIONS: Final = {
    "model": "chat",
    "embedding": "embeddings",
    "retriever": "retrieval",
    "tool": "execute_tool",
    "agent": "invoke_agent",
    "workflow": "invoke_workflow",
}
