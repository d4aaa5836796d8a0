"""A policy as configuration of the OpenTelemetry Collector: a second line of defence behind the process itself.

Its regular expressions are those of Go and RE2: nothing there looks ahead or behind, and nothing checks a digit.
https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/processor/redactionprocessor
https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/processor/transformprocessor
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from aiobs_core import semconv
from aiobs_core.privacy.policy import DETECTORS, CustomDetector, Policy

_READABLE: Final = ("masked", "full")
_MAX_WORDS: Final = 500  # of one detector; they are one pattern, which every text is searched for
# Of Python's regular expressions, what those of Go lack or mean otherwise.
_NOT_IN_GO: Final = re.compile(
    r"\\[1-9ZuUN]|\(\?(?:[=!>(#]|<[=!]|P=|[a-zA-Z]*[aLux])|[*+?}]\+|\{,|\{\d{4,}|\{\d*,\d{4,}"
)


class _Rule(NamedTuple):
    """One replacement of what a pattern finds."""

    detector: str
    pattern: str
    keeps_first_group: bool = False  # such as the name in `password=…`
    is_dropped: bool = False  # nothing stands in its place


_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|api[_\- ]?key|access[_\- ]?key|private[_\- ]?key|client[_\- ]?secret"
    r"|credentials?|auth[_\- ]?key|encryption[_\- ]?key|signing[_\- ]?key|비밀번호|패스워드|암호|비번"
)
_KEYS: Final = (
    r"sk-[A-Za-z0-9_\-]{16,}", r"pk-lf-[A-Za-z0-9_\-]{16,}", r"A(?:KIA|SIA)[A-Z0-9]{16}", r"AIza[A-Za-z0-9_\-]{35}",
    r"ya29\.[A-Za-z0-9_\-]{20,}", r"GOCSPX-[A-Za-z0-9_\-]{20,}", r"gh[pousr]_[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}", r"gl(?:pat|dt|rt|ptt|soat)-[A-Za-z0-9_\-]{16,}", r"xox[abeoprs]-[A-Za-z0-9\-]{10,}",
    r"xapp-[A-Za-z0-9\-]{10,}", r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}", r"hf_[A-Za-z0-9]{20,}",
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}", r"whsec_[A-Za-z0-9+/=]{16,}",
    r"SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}", r"npm_[A-Za-z0-9]{30,}", r"pypi-[A-Za-z0-9_\-]{30,}",
    r"(?:SK|AC)[0-9a-f]{32}", r"do[opr]_v1_[0-9a-f]{40,}", r"(?:gsk_|xai-|pplx-|tgp_v1_|nvapi-|r8_)[A-Za-z0-9_\-]{20,}",
    r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}", r"dapi[0-9a-f]{32}", r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}",
    r"sq0[a-z]{3}-[A-Za-z0-9_\-]{20,}", r"key-[0-9a-f]{32}", r"dckr_pat_[A-Za-z0-9_\-]{20,}",
    r"hv[bsr]\.[A-Za-z0-9_\-]{20,}", r"[A-Za-z0-9]{10,20}\.atlasv1\.[A-Za-z0-9_\-]{40,}",
    r"(?:PMAK|NRAK)-[A-Za-z0-9_\-]{20,}", r"gl(?:c|sa)_[A-Za-z0-9_+/=]{24,}", r"sntrys_[A-Za-z0-9_=+/]{20,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{40,}", r"\d{8,10}:AA[A-Za-z0-9_\-]{30,}",
)  # fmt: skip
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# In the order in which they are replaced: what contains others goes first.
_RULES: Final = (
    _Rule(
        "private_key",
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)"
        r"(?:-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|\z)",
    ),
    _Rule("jwt", r"\beyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,4}"),
    _Rule("api_key", rf"\b(?:{'|'.join(_KEYS)})"),
    _Rule("url_credentials", r"(://)[^\s/@\"'<>?#\\]{1,256}@", keeps_first_group=True),
    _Rule(
        "url_credentials",
        r"(?i)([?&;](?:[a-z0-9_.\-]{0,40}(?:token|secret|api_?key|password|signature|credentials?)|key|sig|code|auth|sas"
        r"|jwt|session|sessionid|sid|pwd|pass|assertion)=)[^&#\s\"'<>\\;]+",
        keeps_first_group=True,
    ),
    _Rule(
        "credential",
        r"(?i)((?:authorization|x-api-key)\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?(?:(?:bearer|basic|token|digest)\s{1,4})?"
        r"|\bbearer\s{1,4})[A-Za-z0-9+/=_.~\-]{8,}",
        keeps_first_group=True,
    ),
    _Rule(
        "credential",
        rf"(?i)((?:{_NAMES})(?:_(?:key|value|prod|dev|test|live|old|new|\d{{1,4}}))?\\?[\"'`]?\]?\s{{0,4}}(?:=>|:=|={{1,3}}|:)"
        r"\s{0,4}\\?[\"'`]?)[^\s\"'`<>,;(){}\[\]\\|*]{4,}",
        keeps_first_group=True,
    ),
    _Rule("email", r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]+\.)+[A-Za-z]{2,24}"),
    _Rule("iban", r"\b[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?\b"),
    _Rule(
        "national_id",  # Korea's resident number, then the United States' SSN and Korea's business number
        r"\b\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])-[1-8]\d{6}\b|\b[0-8]\d{2}-\d{2}-\d{4}\b|\b\d{3}-\d{2}-\d{5}\b",
    ),
    _Rule(
        "card",
        r"\b(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|35\d{2}|6\d{3}|9\d{3})[ \-]?\d{4}[ \-]?\d{4}[ \-]?\d{4}(?:[ \-]?\d{3})?\b"
        r"|\b3(?:[47]\d{2}|0[0-5]\d|[689]\d{2})[ \-]?\d{6}[ \-]?\d{4,5}\b",
    ),
    _Rule("phone", r"\+\d{1,3}[ .\-]?\(?\d{1,4}\)?(?:[ .\-]?\d{2,4}){2,4}\b"),
    _Rule(
        "mac",
        r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b|\b(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}\b"
        r"|\b[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\b",
    ),
    _Rule(
        "ip",
        rf"\b(?:{_OCTET}\.){{3}}{_OCTET}\b|(?i)\b(?:[0-9a-f]{{1,4}}:){{7}}[0-9a-f]{{1,4}}\b"
        r"|\b(?:[23][0-9a-f]{3}|fe[89ab][0-9a-f]|f[cd][0-9a-f]{2})(?::[0-9a-f]{1,4}){0,5}::"
        r"(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,5})?",
    ),
    _Rule("url", r"\b(?:https?|ftp)://[^\s\"'<>\\)\]}]+"),
)
_NATIONAL_PHONES: Final = {
    "KR": r"\b01[016789][ .\-]?\d{3,4}[ .\-]?\d{4}\b|\b0(?:2|[3-6]\d)[ .\-]\d{3,4}[ .\-]\d{4}\b",
    "US": r"(?:\([2-9]\d{2}\) ?|\b[2-9]\d{2}[ .\-])[2-9]\d{2}[ .\-]\d{4}\b",
}
# Attributes, and keys of log bodies, and the fields of content that each may hold: it stays if one of them is readable.
_CONTENT_KEYS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (r"gen_ai\.input\.messages", ("prompts", "system", "completions", "tool_results")),
    (r"gen_ai\.output\.messages", ("completions", "tool_arguments")),
    (r"gen_ai\.(?:system_instructions|system\.message)", ("system",)),
    (r"gen_ai\.tool\.call\.arguments", ("tool_arguments",)),
    (r"gen_ai\.tool\.call\.result", ("tool_results",)),
    (r"gen_ai\.tool\.definitions", ("prompts",)),
    (r"gen_ai\.retrieval\.query\.text", ("prompts",)),
    (r"gen_ai\.retrieval\.documents", ("documents",)),
    (r"gen_ai\.prompt(?:\.\d+\..*)?", ("prompts",)),
    (r"gen_ai\.completion(?:\.\d+\..*)?", ("completions",)),
    (r"ai\.agent\.embedding\.texts", ("embeddings",)),
    (r"input\.value", ("prompts", "system", "completions", "tool_arguments", "tool_results", "embeddings")),
    (r"output\.value", ("completions", "tool_arguments", "tool_results", "documents")),
    (r"llm\.(?:input_messages\..*|prompts(?:\.\d+.*)?|prompt_template\.(?:template|variables))", ("prompts",)),
    (r"llm\.(?:output_messages\..*|completions?(?:\.\d+.*)?)", ("completions",)),
    (r"retrieval\.documents\..*|reranker\.(?:input|output)_documents\..*|document\.content", ("documents",)),
    (r"embedding\.embeddings\..*|embedding\.text", ("embeddings",)),
    (r"traceloop\.entity\.input|langfuse\.(?:observation|trace)\.input", ("prompts",)),
    (r"traceloop\.entity\.output|langfuse\.(?:observation|trace)\.output", ("completions",)),
    (r"content", ("prompts", "system", "completions", "tool_results")),  # of GenAI events in logs
    (r"arguments", ("tool_arguments",)),  # the same
    (r"exception\.(?:message|stacktrace)|error\.message", ("exceptions",)),
    (r"(?:ai\.agent\.)?user\.id|enduser\.id|enduser\.pseudo\.id|user\.(?:email|name|full_name)", ("user_id",)),
)  # fmt: skip
_USER_KEYS: Final = (semconv.USER_ID, semconv.OI_USER_ID)
_HASH: Final = r"^[0-9a-f]{6}:[0-9a-f]{32}\z"
_SECRET_HEADERS: Final = r"(?i)header.*(?:authorization|cookie|api[_\-]key|auth[_\-]token|security[_\-]token)"  # noqa: S105 (names of headers)
# Hashes hold nothing to find; where a service is and which version it has looks like an address.
_IGNORED_KEYS: Final = (
    semconv.PROMPT_HASH, semconv.COMPLETION_HASH, semconv.SYSTEM_HASH, semconv.TOOL_ARGUMENTS_HASH,
    semconv.TOOL_RESULT_HASH, semconv.DOCUMENTS_HASH, semconv.EMBEDDING_TEXTS_HASH, semconv.ENDPOINT,
    semconv.SERVER_ADDRESS, "service.version", "telemetry.sdk.version",
)  # fmt: skip


def collector_config(
    policy: Policy, modes: Mapping[str, str], *, logs_modes: Mapping[str, str] | None = None
) -> str:
    """A fragment of the Collector's configuration that does what the policy does, as far as the Collector can.

    Args:
        policy: Says which detectors are on.
        modes: Mode of each of `policy.FIELDS` on spans, after every override.
        logs_modes: The same on logs; those of spans if None.

    Returns:
        YAML with `processors: transform/aiobs, redaction/aiobs`, for the contrib distribution from 0.120 on. It names what
        had to be left out.
    """
    logs_modes = modes if logs_modes is None else logs_modes
    on_spans, on_logs = _withheld(modes), _withheld(logs_modes)
    rules, left_out = _rules_of(policy)
    blocked_keys = [f"^(?:{key})\\z" for key in on_spans if key in on_logs] + [_SECRET_HEADERS]
    lines = [
        *_heading(policy, left_out),
        "processors:",
        "  transform/aiobs:",
        "    error_mode: ignore",
        "    trace_statements:",
        *_group("span", [*_deletions("span", on_spans, modes), *_span_statements(rules, modes)]),
        *_group("spanevent", [*_deletions("spanevent", on_spans, modes), *_attribute_statements("spanevent", rules)]),
        "    log_statements:",
        *_group("log", [*_deletions("log", on_logs, logs_modes), *_log_statements(rules, on_logs)]),
        "  redaction/aiobs:",
        "    allow_all_keys: true",
        "    ignored_keys:",
        *_list(_IGNORED_KEYS),
        "    blocked_key_patterns:",
        *_list(blocked_keys),
        *(["    blocked_values:", *_list([rule.pattern for rule in rules])] if rules else []),
        "    summary: info",
        *_FOOT,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


# --- what is looked for ---------------------------------------------------------------------------------------------


def _withheld(modes: Mapping[str, str]) -> list[str]:
    """Patterns of the keys that may hold nothing readable."""
    return [
        key
        for key, fields in _CONTENT_KEYS
        # A hash of the user's id is in the same attribute as the id.
        if not any(modes[field] in _READABLE or (field, modes[field]) == ("user_id", "hash") for field in fields)
    ]  # fmt: skip


def _rules_of(policy: Policy) -> tuple[list[_Rule], list[str]]:
    """The rules of the detectors that are on, and the names of those that the Collector cannot have."""
    on = [name for name in DETECTORS if policy.detectors.get(name, "off") != "off"]
    rules = [rule for rule in _RULES if rule.detector in on]
    left_out = [name for name in on if all(rule.detector != name for rule in _RULES)]
    if "phone" in on:
        at = next(number for number, rule in enumerate(rules, 1) if rule.detector == "phone")
        rules[at:at] = [
            _Rule("phone", _NATIONAL_PHONES[region])
            for region in policy.regions
            if region in _NATIONAL_PHONES
        ]
    for custom in policy.custom:
        if custom.replacement != "off":
            patterns, is_whole = _custom_patterns(custom)
            rules += [_Rule(custom.name, pattern) for pattern in patterns]
            left_out += [] if is_whole else [custom.name]
    drops = {name for name, how in policy.detectors.items() if how == "drop"}
    drops.update(custom.name for custom in policy.custom if custom.replacement == "drop")
    return [rule._replace(is_dropped=rule.detector in drops) for rule in rules], left_out


def _custom_patterns(custom: CustomDetector) -> tuple[list[str], bool]:
    """Patterns of a detector of the user's own, and whether they are all of it."""
    patterns: list[str] = []
    is_whole = True
    if custom.regex is not None:
        is_whole = _NOT_IN_GO.search(custom.regex) is None
        patterns += [custom.regex] if is_whole else []
    if len(custom.words) > _MAX_WORDS:
        return patterns, False
    ascii_words = [r"\s+".join(map(re.escape, word.split())) for word in custom.words if word.isascii()]
    others = [re.escape(word) for word in custom.words if not word.isascii()]
    patterns += [rf"(?i)\b(?:{'|'.join(ascii_words)})\b"] if ascii_words else []
    patterns += ["|".join(others)] if others else []
    return patterns, is_whole


# --- statements -----------------------------------------------------------------------------------------------------


def _deletions(context: str, withheld: Sequence[str], modes: Mapping[str, str]) -> Iterator[str]:
    if withheld:
        pattern = _literal(f"^(?:{'|'.join(withheld)})\\z")
        yield f"delete_matching_keys({context}.attributes, {pattern})"
        if context == "log":
            yield f"delete_matching_keys(log.body, {pattern}) where IsMap(log.body)"
    yield f"delete_matching_keys({context}.attributes, {_literal(_SECRET_HEADERS)})"
    if modes["user_id"] == "hash":
        for key in _USER_KEYS:
            target = f"{context}.attributes[{_literal(key)}]"
            yield (
                f"delete_key({context}.attributes, {_literal(key)}) where {target} != nil and "
                f"not IsMatch({target}, {_literal(_HASH)})"
            )


def _attribute_statements(context: str, rules: Sequence[_Rule]) -> Iterator[str]:
    for rule in rules:
        # Addresses are left to redaction, which can leave those of services alone, but cannot drop any.
        if rule.detector != "ip" or rule.is_dropped:
            yield f'replace_all_patterns({context}.attributes, "value", {_literal(rule.pattern)}, {_replacement(rule)})'


def _span_statements(rules: Sequence[_Rule], modes: Mapping[str, str]) -> Iterator[str]:
    yield from _attribute_statements("span", rules)
    shows_errors = modes["exceptions"] in _READABLE
    if not shows_errors:
        yield 'set(span.status.message, "")'
    for rule in rules:
        for target in ("span.name", "span.status.message") if shows_errors else ("span.name",):
            yield f"replace_pattern({target}, {_literal(rule.pattern)}, {_replacement(rule)})"


def _log_statements(rules: Sequence[_Rule], withheld: Sequence[str]) -> Iterator[str]:
    if "content" in withheld:
        name = 'log.attributes["event.name"]'
        events = _literal(r"^gen_ai\.(?:(?:user|system|assistant|tool)\.message|choice)\z")
        yield f'set(log.body, "") where IsString(log.body) and {name} != nil and IsMatch({name}, {events})'
    yield from _attribute_statements("log", rules)
    for rule in rules:
        yield f"replace_pattern(log.body, {_literal(rule.pattern)}, {_replacement(rule)}) where IsString(log.body)"


def _replacement(rule: _Rule) -> str:
    tag = "" if rule.is_dropped else f"<{rule.detector.upper()}>"
    return _literal(f"${{1}}{tag}" if rule.keeps_first_group else tag)


def _literal(text: str) -> str:
    """A text as OTTL writes it: in quotes, with the escapes of Go, which JSON's are among."""
    return json.dumps(text, ensure_ascii=False)


# --- YAML -----------------------------------------------------------------------------------------------------------


def _group(context: str, statements: Sequence[str]) -> list[str]:
    return [f"      - context: {context}", "        statements:", *_list(statements, indent=10)]


def _list(texts: Sequence[str], *, indent: int = 6) -> list[str]:
    return [f"{' ' * indent}- {_quoted(text)}" for text in texts]


def _quoted(text: str) -> str:
    text = text.replace("$", "$$")  # the Collector would take one for a variable of its environment
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return json.dumps(text)  # its escapes are among those of YAML


def _heading(policy: Policy, left_out: Sequence[str]) -> Iterator[str]:
    yield f"# aiobs: the policy {policy.name} (version {json.dumps(policy.version)}, fingerprint {policy.fingerprint}),"
    yield "# for the OpenTelemetry Collector (contrib distribution, 0.120 or later), as a second line of defence."
    yield "#"
    yield "# It does not replace masking in the process: check digits are not verified here (a card is any number of its"
    yield "# shape), nothing is decoded, and there are no hashes and no pseudonyms: what is found gets a plain tag, or ****."
    if left_out:
        yield f"# Not looked for here, since patterns alone cannot: {', '.join(dict.fromkeys(left_out))}."


_FOOT: Final = (
    "",
    "# Transform first: it leaves tags that say what was there, and redaction masks what is left, resources included.",
    "# service:",
    "#   pipelines:",
    "#     traces:",
    "#       processors: [memory_limiter, transform/aiobs, redaction/aiobs, batch]",
    "#     logs:",
    "#       processors: [memory_limiter, transform/aiobs, redaction/aiobs, batch]",
)
