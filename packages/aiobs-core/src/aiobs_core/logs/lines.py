"""What a line says of a run: fields by the names of `aiobs_core.semconv.logs`, every text masked by the run's policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core import semconv
from aiobs_core._operation import Kind, RunStatus
from aiobs_core._run import Run
from aiobs_core.logs.request import Call, RequestSummary
from aiobs_core.privacy.content import Asked, ContentReader, Rules, Tally, rules_of
from aiobs_core.privacy.messages import READABLE
from aiobs_core.privacy.modes import modes_in_force
from aiobs_core.semconv import logs as names
from aiobs_core.signals.gen_ai import FLOATS, INTS, REASONING_LEVELS, action_of
from aiobs_core.signals.spans import Safe

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.stage import Privacy

PARAMETERS: Final[Mapping[str, tuple[type, ...]]] = {
    **{name: (float, int) for name, _ in FLOATS},
    **{name: (int,) for name, _ in INTS},
    "n": (int,),
}
"""An allow-list of names *and* types: an application can bind any object under any of these names."""
_READ_CHARS: Final = 8_192  # of an answer: its beginning is in there, however much white space is between
_MASKED_CHARS: Final = 1_024
_UNNAMED: Final = "unnamed"
# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_MODEL: Final = Kind.MODEL
_FAILED: Final = (RunStatus.ERROR, RunStatus.TIMED_OUT)
_TIMED_OUT: Final = RunStatus.TIMED_OUT


class _LogRules(NamedTuple):
    """A policy at work on logs.

    Attributes:
        rules: As those of spans, with the modes of logs.
        hashing: The same with nothing but the prompt's hash.
        same_user: Whether the user's id leaves as it does on spans.
    """

    rules: Rules
    hashing: Rules
    same_user: bool


class Lines:
    """Makes the fields of lines. Used by the worker only."""

    def __init__(self, settings: Settings, health: Health, privacy: Privacy) -> None:
        self._settings = settings
        self._health = health
        self._privacy = privacy
        self._rules: dict[str, _LogRules] = {}

    # --- lines ------------------------------------------------------------------------------------------------------

    def start(self, run: Run) -> dict[str, Any]:
        """A run has started."""
        found = _of_run(run, self._safe(run), "DEBUG", names.RUN_START, run.span.start_ns)
        _add(found, names.USER_ID, self._user_of(run))
        return found

    def retry(self, run: Run, at_ns: int, attempt: object) -> dict[str, Any]:
        """Something is tried again."""
        found = _of_run(run, self._safe(run), "WARN", names.RETRY, at_ns)
        _add(found, names.USER_ID, self._user_of(run))
        if type(attempt) is int and attempt >= 0:
            found[names.ATTEMPT] = attempt
        return found

    def end(self, run: Run, level: str, event: str) -> dict[str, Any]:
        """A run inside a request has ended."""
        safe = self._safe(run)
        found = _of_run(run, safe, level, event, run.span.end_ns)
        _add(found, names.USER_ID, self._user_of(run))
        if run.kind is _MODEL or run.operation.model:
            _add_model(run, safe, found)
        _add(found, names.PROMPT_HASH, self._read(self._hash_of, run))
        if usage := run.outcome.usage:
            _add_count(found, names.INPUT_TOKENS, usage.input_tokens)
            _add_count(found, names.OUTPUT_TOKENS, usage.output_tokens)
            _add_count(found, names.CACHED_TOKENS, usage.cache_read_tokens)
            _add_count(found, names.REASONING_TOKENS, usage.reasoning_tokens)
        _add_cost(found, run.cost_usd)
        return _ended(run, safe, found)

    def request(self, run: Run, summary: RequestSummary, level: str) -> dict[str, Any]:
        """A request has ended."""
        safe = self._safe(run)
        found = _of_run(run, safe, level, names.REQUEST, run.span.end_ns)
        _add(found, names.USER_ID, self._user_of(run))
        call = summary.main_call()
        if call is not None:
            _add(found, names.MODEL, call.model)
            _add(found, names.MODEL_VERSION, call.model_version)
            _add(found, names.PARAMETERS, call.parameters)
        known = summary.prompt_hash if run.kind is _MODEL else self._read(self._hash_of, run)
        _add(found, names.PROMPT_HASH, known or summary.prompt_hash)
        _add(found, names.OUTPUT_SUMMARY, summary.output_summary)
        _add_count(found, names.INPUT_TOKENS, summary.input_tokens)
        _add_count(found, names.OUTPUT_TOKENS, summary.output_tokens)
        _add_count(found, names.CACHED_TOKENS, summary.cached_tokens)
        _add_count(found, names.REASONING_TOKENS, summary.reasoning_tokens)
        _add_cost(found, run.cost_total_usd)
        if summary.model_calls:
            found[names.MODEL_CALLS] = summary.model_calls
        if summary.retries:
            found[names.RETRIES] = summary.retries
        return _ended(run, safe, found)

    def call(self, run: Run) -> Call:
        """What the line of the request may say of a model call inside it."""
        safe, span = self._safe(run), run.span
        model: dict[str, Any] = {}
        _add_model(run, safe, model)
        return Call(
            model.get(names.MODEL),
            model.get(names.MODEL_VERSION),
            model.get(names.PARAMETERS),
            self._read(self._hash_of, run),
            self._read(self._summary_of, run),
            run.outcome.usage,
            span.start_ns,
            span.end_ns,
        )

    # --- by the policy ----------------------------------------------------------------------------------------------

    def _safe(self, run: Run) -> Safe:
        return Safe(self._privacy, self._rules_of(run).rules, run.tally or Tally())

    def _rules_of(self, run: Run) -> _LogRules:
        rules = run.rules or self._privacy.rules()
        found = self._rules.get(rules.policy.name)
        return found or self._make_rules(rules)

    def _make_rules(self, of_spans: Rules) -> _LogRules:
        policy = of_spans.policy
        modes = modes_in_force(policy, self._settings, "logs")
        on_logs = replace(policy, content=policy.logs_content)  # its own word counts where hashes are wanted
        masker, is_default = of_spans.masker, of_spans.is_default
        prompt = {**dict.fromkeys(modes, "none"), "prompts": "none" if modes["prompts"] == "none" else "hash"}
        found = self._rules[policy.name] = _LogRules(
            rules_of(on_logs, modes, masker, is_default=is_default),
            rules_of(on_logs, prompt, masker, is_default=is_default),  # type: ignore[arg-type]  # modes, as texts
            modes["user_id"] == of_spans.modes["user_id"],
        )
        return found

    def _read(self, what: Callable[[Run], str | None], run: Run) -> str | None:
        try:
            return what(run)
        except Exception as error:  # noqa: BLE001 (foreign messages may raise anything; counted and warned of)
            self._health.problem(
                "logs.content",
                f"aiobs could not read the content of a {run.span.scope} run ({type(error).__name__}); its log line does "
                "without.",
            )
            return None

    def _hash_of(self, run: Run) -> str | None:
        """The prompt's hash where logs may have it: that of the span, if it has one."""
        rules = self._rules_of(run)
        if rules.rules.modes["prompts"] == "none" or run.kind not in rules.hashing.read_kinds:
            return None
        known = run.content.get(semconv.PROMPT_HASH)
        if known is None and (run.rules is None or run.rules.modes["prompts"] == "none"):
            asked = Asked(run.kind, run.operation.content, None)
            reader = ContentReader(rules.hashing, Tally(), self._privacy.hasher, max_chars=64)
            reader.read(asked)
            known = reader.found.get(semconv.PROMPT_HASH)
        return known if isinstance(known, str) else None

    def _summary_of(self, run: Run) -> str | None:
        """The beginning of a model's answer on one line, where logs may have it."""
        rules = self._rules_of(run).rules
        mode = rules.modes["completions"]
        if mode not in READABLE or run.outcome.content is None:
            return None
        texts = [
            part.get("content")
            for message in run.outcome.content()
            for part in message["parts"]
            if part.get("type") == "text"
        ]
        text = " ".join("".join(each[:_READ_CHARS] for each in texts if type(each) is str).split())
        if mode == "masked":
            text = rules.masker.text(text, (run.tally or Tally()).of("completions"), max_chars=_MASKED_CHARS)
        return _cut(clean(text), names.MAX_SUMMARY_CHARS) or None

    def _user_of(self, run: Run) -> str | None:
        """The user's id as logs may have it."""
        rules = self._rules_of(run)
        if rules.same_user:
            known = run.content.get(semconv.USER_ID)
            return _cut(clean(known), names.MAX_TEXT_CHARS) if isinstance(known, str) else None
        request = run.span.request
        user = (None if request is None else request.user_id) or run.operation.user_id
        mode = rules.rules.modes["user_id"]
        if not user or mode == "none":
            return None
        if mode == "hash":
            return self._privacy.hasher.hash("user_id", str(user))
        text = str(user) if mode == "full" else self._safe(run).text("", str(user))
        return _cut(clean(text), names.MAX_TEXT_CHARS)


def _of_run(run: Run, safe: Safe, level: str, event: str, at_ns: int) -> dict[str, Any]:
    """What every line has, and whose run it was."""
    span, operation, request = run.span, run.operation, run.span.request
    found: dict[str, Any] = {
        names.TIMESTAMP: timestamp(at_ns),
        names.LEVEL: level,
        names.EVENT: event,
        names.TRACE_ID: f"{span.trace.trace_id:032x}",
        names.SPAN_ID: f"{span.span_id:016x}",
    }
    request_id, session_id = operation.request_id, operation.conversation_id
    if request is not None:
        request_id = request.request_id or request_id
        session_id = request.session_id or session_id
    if not request_id and span.is_local_root:
        request_id = found[names.TRACE_ID]
    _add_text(found, names.REQUEST_ID, request_id, safe)
    _add_text(found, names.SESSION_ID, session_id, safe)
    _add_text(found, names.FRAMEWORK, span.scope.removeprefix(semconv.SCOPE_PREFIX), safe)
    _add_text(found, names.AGENT, operation.name if run.kind is _AGENT else run.agent, safe)
    _add_text(found, names.OPERATION, action_of(run) or run.kind._value_, safe)
    _add_text(found, names.NAME, operation.name, safe)
    return found


def _ended(run: Run, safe: Safe, found: dict[str, Any]) -> dict[str, Any]:
    failed = run.status in _FAILED
    found[names.LATENCY_MS] = max(0, round((run.span.end_ns - run.span.start_ns) / 1e6))
    found[names.STATUS] = "error" if failed else "success"
    found[names.OUTCOME] = run.status._value_
    if failed:
        code = run.status._value_ if run.status is _TIMED_OUT else run.error_type
        _add_text(found, names.ERROR_CODE, code or run.status._value_, safe)
    return found


def _add_model(run: Run, safe: Safe, found: dict[str, Any]) -> None:
    operation, outcome = run.operation, run.outcome
    _add_text(found, names.MODEL, operation.model or outcome.model, safe)
    _add_text(found, names.MODEL_VERSION, outcome.model, safe)
    if operation.params:
        _add(found, names.PARAMETERS, _parameters(operation.params, safe))


def _parameters(given: Mapping[str, object], safe: Safe) -> Mapping[str, Any] | None:
    found = {name: value for name, types in PARAMETERS.items() if type(value := given.get(name)) in types}
    level = given.get("reasoning_effort")
    if type(level) is str and level in REASONING_LEVELS:
        found["reasoning_effort"] = level
    return safe.attributes(found) or None


def _add(found: dict[str, Any], name: str, value: object) -> None:
    if value:
        found[name] = value


def _add_text(found: dict[str, Any], name: str, value: object, safe: Safe) -> None:
    if value is None:
        return
    if type(value) is not str:  # a subclass of str could do anything when its text is asked for
        value = value.value if isinstance(value, Enum) and type(value.value) is str else _UNNAMED
    text = safe.text("", value)
    if text:
        found[name] = text if len(text) <= names.MAX_TEXT_CHARS else _cut(text, names.MAX_TEXT_CHARS)


def _add_count(found: dict[str, Any], name: str, value: object) -> None:
    if type(value) is int and 0 <= value < 1 << 63:
        found[name] = value


def _add_cost(found: dict[str, Any], cost_usd: float | None) -> None:
    if cost_usd is not None and math.isfinite(cost_usd) and cost_usd >= 0:
        found[names.COST_USD] = cost_usd


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def clean(text: str) -> str:
    """The text with what UTF-8 cannot encode replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def timestamp(at_ns: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{_second(seconds)}.{ns // 1_000:06d}Z"


def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
