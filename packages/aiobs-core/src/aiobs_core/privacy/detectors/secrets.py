"""API keys, tokens, private keys, passwords in code and configuration, and random strings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from aiobs_core.privacy.detectors._search import TAG, Span, long_tokens, long_words, near_before

_WORD: Final = r"[A-Za-z0-9_\-]"


def _key(body: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9_]){body}")


# What each begins with, looked for first because that is fast, and what it looks like; as the providers document them,
# or as their own clients check them.
_API_KEYS: Final = (
    ("sk-", _key(rf"sk-(?:proj-|svcacct-|admin-|ant-[a-z0-9]{{2,8}}-|or-v1-|lf-)?{_WORD}{{16,}}")),
    ("pk-lf-", _key(rf"pk-lf-{_WORD}{{16,}}")),
    ("AKIA", _key(r"AKIA[A-Z0-9]{16}")),
    ("ASIA", _key(r"ASIA[A-Z0-9]{16}")),
    ("AIza", _key(rf"AIza{_WORD}{{35}}")),
    ("ya29.", _key(rf"ya29\.{_WORD}{{20,}}")),
    ("GOCSPX-", _key(rf"GOCSPX-{_WORD}{{20,}}")),
    ("AccountKey=", _key(r"(?<=AccountKey=)[A-Za-z0-9+/]{60,}={0,2}")),
    ("gh", _key(r"gh[pousr]_[A-Za-z0-9]{20,}")),
    ("github_pat_", _key(r"github_pat_[A-Za-z0-9_]{20,}")),
    ("glpat-", _key(rf"gl(?:pat|dt|rt|ptt|soat)-{_WORD}{{16,}}")),
    ("xox", _key(r"xox[abeoprs]-[A-Za-z0-9\-]{10,}")),
    ("xapp-", _key(r"xapp-[A-Za-z0-9\-]{10,}")),
    ("hooks.slack.com/", re.compile(r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}")),
    ("hf_", _key(r"hf_[A-Za-z0-9]{20,}")),
    ("_live_", _key(r"[srp]k_live_[A-Za-z0-9]{10,}")),
    ("_test_", _key(r"[srp]k_test_[A-Za-z0-9]{10,}")),
    ("whsec_", _key(r"whsec_[A-Za-z0-9+/=]{16,}")),
    ("SG.", _key(rf"SG\.{_WORD}{{16,}}\.{_WORD}{{16,}}")),
    ("npm_", _key(r"npm_[A-Za-z0-9]{30,}")),
    ("pypi-", _key(rf"pypi-{_WORD}{{30,}}")),
    ("SK", _key(r"SK[0-9a-f]{32}(?![0-9a-f])")),
    ("AC", _key(r"AC[0-9a-f]{32}(?![0-9a-f])")),
    ("do", _key(r"do[opr]_v1_[0-9a-f]{40,}")),
    ("gsk_", _key(r"gsk_[A-Za-z0-9]{20,}")),
    ("xai-", _key(r"xai-[A-Za-z0-9]{20,}")),
    ("r8_", _key(r"r8_[A-Za-z0-9]{30,}")),
    ("pplx-", _key(r"pplx-[A-Za-z0-9]{20,}")),
    ("tgp_v1_", _key(rf"tgp_v1_{_WORD}{{20,}}")),
    ("nvapi-", _key(rf"nvapi-{_WORD}{{20,}}")),
    ("lsv2_", _key(r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}")),
    ("dapi", _key(r"dapi[0-9a-f]{32}")),
    ("shp", _key(r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}")),
    ("sq0", _key(rf"sq0[a-z]{{3}}-{_WORD}{{20,}}")),
    ("key-", _key(r"key-[0-9a-f]{32}")),
    ("dckr_pat_", _key(rf"dckr_pat_{_WORD}{{20,}}")),
    ("hv", _key(rf"hv[bsr]\.{_WORD}{{20,}}")),
    ("atlasv1.", _key(rf"[A-Za-z0-9]{{10,20}}\.atlasv1\.{_WORD}{{40,}}")),
    ("PMAK-", _key(rf"PMAK-{_WORD}{{30,}}")),
    ("NRAK-", _key(r"NRAK-[A-Z0-9]{20,}")),
    ("glc_", _key(r"gl(?:c|sa)_[A-Za-z0-9_+/=]{24,}")),
    ("glsa_", _key(r"glsa_[A-Za-z0-9_]{24,}")),
    ("sntrys_", _key(r"sntrys_[A-Za-z0-9_=+/]{20,}")),
    ("AGE-SECRET-KEY-", _key(r"AGE-SECRET-KEY-1[A-Z0-9]{40,}")),
    (":AA", _key(rf"\d{{8,10}}:AA{_WORD}{{30,}}")),
)
_JWT: Final = re.compile(r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,4}")
_PEM_BEGIN: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")

_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|api[_\- ]?key|access[_\- ]?key|private[_\- ]?key|client[_\- ]?secret"
    r"|credentials?|auth[_\- ]?key|encryption[_\- ]?key|signing[_\- ]?key|account[_\- ]?key|비밀번호|패스워드|암호|비번"
)
# Name, what closes it, what assigns: a sign, a cell of a table, the end of an XML tag, or a word.
_CREDENTIAL: Final = re.compile(
    rf"(?i)(?:{_NAMES}|(?<![A-Za-z0-9])pw)(?P<rest>[A-Za-z0-9_]{{0,20}})(?P<close>\\?[\"'`]?\]?[^\w\s:=,.;<>|\-\\\"'`(){{}}\[\]]{{0,3}})"
    r"(?P<by>[ \t]{0,4}(?:=>|:=|={1,3}|:|：|\||>)\s{0,4}|[ \t]{1,2}(?:is|was|to|as)[ \t]{1,2}|(?:은|는|이|가)[ \t]{0,2}|[ \t]{1,2})"
    r"(?P<open>\\?[\"'`]?)"
)
_AUTHORIZATION: Final = re.compile(
    r"(?i)(?:authorization|x-api-key)\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?(?:(?:bearer|basic|token|digest|negotiate)[ \t]{1,4})?"
    r"|\b(?:bearer|basic)[ \t]{1,4}(?=[A-Za-z0-9+/=_.\-]{12,})"
)
_COOKIE: Final = re.compile(r"(?i)\bcookie\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?(?P<value>[^\r\n\"'<>\\]{4,})")
_USER_OPTION: Final = re.compile(
    r"(?<![A-Za-z0-9\-])(?:-u|--user|--proxy-user)[ =]{0,2}[\"']?(?P<value>[^\s:\"'<>]{1,64}:[^\s\"'<>]{1,256})"
)
_AFTER_ADDRESS: Final = re.compile(  # as lists of leaked accounts have it: lee@example.com:hunter22
    r"@[A-Za-z0-9.\-]{3,80}\.[A-Za-z]{2,24}:(?P<value>[^\s:/.\"'<>,;|]{6,64})"
)
_HEADER_ROW: Final = re.compile(
    rf"(?im)^[ \t]*\|(?P<before>(?:[^|\n]{{0,80}}\|){{0,8}})[^|\n]{{0,40}}(?:{_NAMES})[^|\n]{{0,40}}\|[^\n]{{0,400}}\n[ \t]*\|[ :|\-]+\n"
)
_BARE_VALUE: Final = re.compile(r"[^\s\"'`<>,;(){}\[\]\\|]+")
_BARE_ASCII: Final = re.compile(r"(?:(?![\s\"'`<>,;(){}\[\]\\|])[\x00-\x7f])+")
_HEAD_CHARS: Final = 256  # of a value, which say whether it is one
_MAX_VALUE: Final = 4_096
_HINTS: Final = (
    "pass",
    "pw",
    "-u",
    "--user",
    "secret",
    "token",
    "key",
    "credential",
    "authorization",
    "bearer",
    "basic ",
    "cookie",
)
_HINTS_KO: Final = ("비밀번호", "패스워드", "암호", "비번")
_NO_VALUES: Final = re.compile(
    r"(?i)(?:none|null|nil|true|false|yes|no|undefined|empty|missing|required|optional|invalid|expired|str|string|int|bool|"
    r"bytes|any|object|text|self\..*|os\..*|env\..*|process\..*|settings\..*|config\..*|getenv.*|args\..*|input|x+|\*+|\.+|-+"
    r"|\$.*|%\w+%|type|default|changeme\?|your\S*|my\S*key|secretstr|hidden|redacted|masked|the|a|an|not|must|should|is|of"
    r"|for|to|and|or|in|=+|:+|field|await|new|lambda|-+|get\w*|load\w*|read\w*)$"
)
_COUNTED: Final = re.compile(r"(?i)s?(?:_?(?:count|counts|limit|usage|budget|length|size|type|id|name|ids|s|url|uri|path|file|ttl|"
                             r"expiry|expires\w*|header|policy|format|field|env|prefix|version|hash|min\w*|max\w*))$")  # fmt: skip

_RANDOM: Final = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{20,}={0,2}(?![A-Za-z0-9])")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9+]+")
_HEX: Final = re.compile(r"[0-9a-f]{24,}$|[0-9A-F]{24,}$")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
# Ids that providers and package managers give out; they open nothing.
_IDENTIFIER: Final = re.compile(
    r"(?:sha\d{1,3}-|chatcmpl-|cmpl-|msg_|resp_|toolu_|call_|run[_\-]|thread_|asst_|file-|req_|gen-|fc_|rs_|batch_|step_|srvtoolu_)"
)
_WORDS: Final = re.compile(r"[A-Z]?[a-z]{3,}")
_HEX_WORDS: Final = re.compile(
    r"(?i)secret|token|\bkey\b|api[_ \-]?key|_key|password|passwd|credential|비밀|토큰|키"
)
_CHECKSUM_WORDS: Final = re.compile(
    r"(?i)sha-?\d|md5|checksum|digest|commit|hash|revision|trace|span|etag|fingerprint|커밋|해시"
)
_MIN_BITS: Final = 3.4  # per character; 24 random characters of 62 have about 4.2, names and words below 3.3


def find_api_key(text: str) -> Iterator[Span]:
    """Keys and tokens that their providers mark by how they begin."""
    long = long_words(text)  # every key is one such word, or begins one
    if not long:
        return
    for prefix, pattern in _API_KEYS:
        if prefix in long:
            for match in pattern.finditer(text):
                yield Span(match.start(), match.end(), match[0])


def find_jwt(text: str) -> Iterator[Span]:
    """JSON Web Tokens, signed or encrypted, whole or cut off."""
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield Span(match.start(), match.end(), match[0])


def find_private_key(text: str) -> Iterator[Span]:
    """Private keys in PEM and PGP blocks; one whose end is missing reaches to the end of the text."""
    at = 0
    while "-----BEGIN " in text and (begin := _PEM_BEGIN.search(text, at)) is not None:
        end = _PEM_END.search(text, begin.end())
        at = len(text) if end is None else end.end()
        yield Span(begin.start(), at, text[begin.start() : at])


def find_credential(text: str) -> Iterator[Span]:
    """Values after a name such as `password`, `api_key`, `비밀번호` or `Authorization: Bearer`."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS) and not any(hint in text for hint in _HINTS_KO):
        return
    values = _Values(text)
    at = 0
    for match in _AUTHORIZATION.finditer(text):
        start = match.end()
        end = values.end(start, match[0][-1:] if match[0][-1:] in "\"'" else "")
        if end - start >= 6 and start >= at:
            at = end
            yield Span(start, end, text[start:end])
    for match in (*_COOKIE.finditer(text), *_USER_OPTION.finditer(text)):
        yield Span(*match.span("value"), match["value"])
    for match in _AFTER_ADDRESS.finditer(text):
        if any(map(str.isdigit, match["value"])) and any(map(str.isalpha, match["value"])):
            yield Span(*match.span("value"), match["value"])
    at = 0
    for match in _CREDENTIAL.finditer(text):
        start = match.end()
        if _COUNTED.match(match["rest"]) or _is_in_tag(text, match.start()):
            continue
        end = values.end(start, match["open"])
        if end > start >= at and _is_given(text, match, start, end):
            at = end  # names within a value name no other one
            yield Span(start, end, text[start:end])
    if "|" in text:
        yield from _in_columns(text)


def _in_columns(text: str) -> Iterator[Span]:
    """Cells of Markdown tables below a heading such as `password`."""
    headers = list(_HEADER_ROW.finditer(text))
    ends = [*(header.start() for header in headers), len(text)][1:]
    for header, last in zip(headers, ends, strict=True):
        column = header["before"].count("|") + 1
        at = header.end()
        while at < last and text[at] == "|":
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            start = at
            for _ in range(column - 1):
                start = text.find("|", start + 1, end)
                if start < 0:
                    break
            close = text.find("|", start + 1, end) if start >= 0 else -1
            value = text[start + 1 : close].strip() if close > 0 else ""
            if len(value) >= 3 and "<" not in value and value.strip("*-"):
                begin = text.index(value, start + 1)
                yield Span(begin, begin + len(value), value)
            at = end + 1


class _Values:
    """Values in one text. Remembers where the last word ended: names may follow one another within one long word."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._runs: dict[re.Pattern[str], tuple[int, int, int]] = {}

    def end(self, start: int, opening: str) -> int:
        """Where the value that begins at `start` ends: at the closing quote, or with the word."""
        text = self._text
        if opening:
            end = text.find(opening, start, start + _MAX_VALUE)
            if end > start and text.find("\n", start, end) < 0 and text.find("<", start, end) < 0:
                return end
        # Korean particles are attached: hunter2입니다
        return self._word_end(_BARE_ASCII if text[start : start + 1].isascii() else _BARE_VALUE, start)

    def _word_end(self, pattern: re.Pattern[str], start: int) -> int:
        text = self._text
        begin, end, trimmed = self._runs.get(pattern, (0, 0, 0))
        if not begin <= start < end:
            match = pattern.match(text, start)
            if match is None:
                return start
            end = trimmed = match.end()
            while trimmed > start and text[trimmed - 1] in ".:!?…|":
                trimmed -= 1
            self._runs[pattern] = start, end, trimmed
        return trimmed


def _is_in_tag(text: str, start: int) -> bool:
    """Whether a name is that of a tag such as `<CREDENTIAL>`, and not of an XML element."""
    begin = text.rfind("<", max(0, start - 32), start)
    tag = TAG.match(text, begin) if begin >= 0 else None
    if tag is None or tag.end() <= start:
        return False
    return text.find(f"</{tag[0][1:]}", tag.end(), tag.end() + _MAX_VALUE) < 0


def _is_given(text: str, match: re.Match[str], start: int, end: int) -> bool:
    """Whether what follows a name is a value of it, and neither code nor another word of the sentence."""
    value, by = text[start : min(end, start + _HEAD_CHARS)], match["by"]
    is_assigned = any(sign in by for sign in "=:：|>")
    if len(value) < (3 if is_assigned else 6) or _NO_VALUES.match(value) or not value.strip("*•xX.-_#"):
        return False
    if not match["open"] and text[end : end + 1] in {"(", "["}:
        return False
    has_digit, has_letter = any(map(str.isdigit, value)), any(map(str.isalpha, value))
    if ">" in by or "|" in by:
        return has_letter and len(value) >= 6 and value[0] != "/" and not value.isalpha()
    if is_assigned:
        is_password = match[0][:1].lower() == "p" or "번" in match[0] or "암호" in match[0]
        return has_letter or is_password or not value.isdigit()
    return bool(match["open"] and " to " in by) or (has_digit and has_letter and value[0].isascii())


def is_secret_name(name: str) -> bool:
    """Whether a key of a mapping, a header or an attribute names a secret, whatever its value looks like."""
    lowered = name.lower().replace("-", "_")
    if lowered in _SECRET_HEADERS:
        return True
    return (found := _SECRET_NAME.search(lowered)) is not None and not _COUNTED.match(lowered[found.end() :])


_SECRET_HEADERS: Final = {
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "x_api_key",
    "x_auth_token",
    "api_key",
}
_SECRET_NAME: Final = re.compile(rf"(?:^|[_.\[]|(?<=[a-z]))(?:{_NAMES}|authorization|set_cookie)(?=$|[_\]])")


def find_secret(text: str) -> Iterator[Span]:
    """Long random strings of letters and digits; hexadecimal ones only after a word such as `secret`.

    UUIDs, checksums, commits, paths and long names are no secrets.
    """
    for start, _ in long_tokens(text):
        match = _RANDOM.match(text, start)
        if match is None:
            continue
        if _is_random(match[0]) or (_HEX.match(match[0]) and _is_named_hex(text, match.start())):
            yield Span(match.start(), match.end(), match[0])


def _is_named_hex(text: str, start: int) -> bool:
    named = near_before(_HEX_WORDS, text, start, reach=32)
    return named and not near_before(_CHECKSUM_WORDS, text, start, reach=24)


def _is_random(token: str) -> bool:
    if _UUID.match(token) or _HEX.match(token):
        return False
    segments = _SEGMENT.findall(token)
    longest = max(segments, key=len, default="")
    joined = "".join(segments)
    if _IDENTIFIER.match(token) or (len(longest) < 16 and ("/" in token or len(joined) < 20)):
        return False
    if not any(map(str.isdigit, joined)) or joined.islower() or joined.isupper():
        return False
    if not any(map(str.islower, joined)) or not any(map(str.isupper, joined)):
        return False
    in_words = sum(map(len, _WORDS.findall(token)))
    bits = bits_per_character(joined)
    if len(longest) >= 16:
        most = 0.65 if bits >= 4.0 else 0.5
    else:
        most = 0.5 if bits >= 4.0 else 0.3
    return in_words <= most * len(joined) and bits >= _MIN_BITS


def bits_per_character(text: str) -> float:
    """Shannon entropy of the characters of a text, by its first ones."""
    head = text[:_HEAD_CHARS]
    size = len(head)
    return -sum(count / size * math.log2(count / size) for count in Counter(head).values()) if size else 0.0
