"""Secrets of every type, in every place where the frameworks carry text: none of them leaves, in whatever form.

The runs are those of `privacy_scenes.py`, each set of settings in a process of its own. Searched are the bytes that a
receiver got, the files of the store and what the command `aiobs` reads out of them, the logs, the console, the audit log.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

import pytest

from aiobs_core import cli, semconv
from aiobs_core.privacy.hashing import NO_KEYS, Hasher
from aiobs_core.privacy.masker import Masker
from aiobs_core.privacy.policy import PRESETS
from aiobs_testing.receiver import OtlpReceiver, ReceivedSpan

pytest.importorskip(
    "openinference.instrumentation.langchain",
    reason="One of the runs is seen by another instrumentation: `pip install openinference-instrumentation-langchain`.",
)

sys.path.insert(0, str(Path(__file__).parent))

from privacy_scenes import EDGES, FORMS, PERSON, canaries

# --- where what stands ----------------------------------------------------------------------------------------

_CONTENT: Final = """
    lc.system lc.system.halves lc.history.human lc.history.ai lc.history.call lc.history.tool lc.prompt lc.prompt.disguised
    lc.prompt.halves lc.prompt.long lc.completion lc.completion.call lc.completion.disguised lc.completion.halves
    lc.text.prompt lc.text.completion lc.call.tool.name lc.call.id.name lc.stream lc.astream lc.stream.partial
    lc.tool.arguments lc.tool.arguments.named lc.tool.arguments.keys lc.tool.arguments.number lc.tool.arguments.disguised
    lc.tool.arguments.json lc.tool.result lc.tool.result.dict lc.tool.result.keys lc.tool.result.model
    lc.tool.result.disguised lc.tool.message lc.tool.handled lc.tool.error lc.tool.cause lc.model.error lc.error.class.name
    lc.error.note lc.retriever.error.disguised lc.query lc.document lc.document.metadata lc.document.id.name
    lc.document.disguised lc.document.keys lc.embedding.query lc.embedding.text lc.embedding.text.disguised lc.store.query
    lc.store.text lc.store.metadata lg.system lg.prompt lg.tool.arguments lg.tool.result lg.completion

    li.system li.history.user li.history.assistant li.history.tool li.prompt.halves li.prompt.disguised li.completion
    li.completion.call li.text.prompt li.text.completion li.stream li.astream li.model.error li.engine.system
    li.engine.prompt li.engine.completion li.document li.document.metadata li.document.id.name li.query li.question
    li.answer li.reranked li.reranker.query li.embedding.text li.tool.arguments li.tool.arguments.keys
    li.tool.arguments.named li.tool.result li.tool.error li.tool.cause li.workflow.error li.agent.system li.agent.prompt
    li.agent.arguments li.agent.result li.agent.completion

    own.content own.event.content foreign.messages foreign.openinference foreign.input.disguised foreign.output
    foreign.completion.long foreign.event.prompt foreign.exception foreign.status oi.prompt oi.completion oi.tool.arguments
    oi.tool.result oi.error
"""
_NAMED: Final = """
    lc.finish_reason.name lc.response.id.name lc.response.model.name lc.model.name lc.tool.call_id.name lc.run_name
    lc.run_name.edge lc.event lc.metadata.allowed lc.metadata.listed lc.metadata.edge lc.metadata.number
    lc.metadata.session lc.metadata.request lg.node.name lg.thread li.tag.allowed li.tag.session request.session
    request.id request.tag request.tag.disguised request.prompt request.version observe.name

    own.span own.span.attribute own.attribute own.attribute.listed own.attribute.edge own.attribute.number
    own.attribute.listed.number own.attribute.word own.attribute.key.name own.event own.event.attribute own.link own.name

    foreign.name foreign.scope.name foreign.link foreign.attribute foreign.attribute.listed foreign.attribute.disguised
    foreign.attribute.huge foreign.attribute.number foreign.attribute.word foreign.attribute.key.name foreign.bare
    foreign.http.url foreign.full.url foreign.database foreign.event foreign.event.attribute httpx.url httpx.note.name
    oi.metadata resource.name resource.command.word remote.state
"""
_USERS: Final = "lc.metadata.user.name li.tag.user.name request.user.name foreign.user.name"
_HELD_BACK: Final = """
    lc.history.name lc.history.more lc.history.image lc.history.reasoning lc.history.artifact lc.role.name
    lc.tool.artifact lc.tool.description lc.on_retry lc.serialized lc.serialized.key lc.base.url lc.response.metadata
    lc.tag lc.metadata.hidden lc.event.inside lg.state lg.resume lg.interrupt lg.configurable

    li.tag.hidden li.tool.description li.workflow.start li.workflow.stop

    own.exception own.exception.message own.status foreign.header.key foreign.header.other.key httpx.header.key
    httpx.cookie.key
"""
CONTENT: Final = tuple(_CONTENT.split())
"""Leaves, masked, where the modes of content let it."""
NAMED: Final = tuple(_NAMED.split())
"""Leaves, masked, whatever the modes are: names, ids, tags, attributes, and the metadata that is allowed to."""
USERS: Final = tuple(_USERS.split())
"""Leaves as a hash."""
HELD_BACK: Final = tuple(_HELD_BACK.split())
"""Never leaves, not even with `full` and no detector."""
PLACES: Final = (*CONTENT, *NAMED, *USERS, *HELD_BACK)

"""Known to leave under the modes that mask, and why."""

# --- the search -----------------------------------------------------------------------------------------------

_PIECE: Final = 12
_NOT_SECRET: Final = {"api_key.anthropic": 13}  # characters that all of a kind begin with
_RUN: Final = re.compile(r"\d(?:[ \-./()]?\d){8,}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9+/_\-]{16,}")
_ADDRESS: Final = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_SHORT_NUMBERS: Final = (9, 11, 13)
_LONG_NUMBERS: Final = (16, 20)
_PERSONS: Final = ("*", "person")
Where = tuple[str, str]
"""Place, and kind of secret."""


class Needles:
    """All canaries, by what of them would be found: pieces of long ones, digits of numbers, addresses as they are."""

    def __init__(self, places: Sequence[str]) -> None:
        self.pieces: dict[str, Where] = dict.fromkeys(_pieces(PERSON.partition("@")[0]), _PERSONS)
        self.numbers: dict[str, Where] = {}
        self.addresses: dict[str, Where] = {}
        for place in places:
            for kind, value in canaries(place).values.items():
                where = (place, kind)
                if kind in {"ip", "mac"}:
                    self.addresses[value] = where
                elif kind in {"iban", "rrn", "ssn", "card", "phone", "phone_kr"}:
                    self.numbers[re.sub(r"\D", "", value)] = where
                elif kind == "jwt":
                    _, claims, signature = value.split(".")
                    self.pieces.update(dict.fromkeys([claims[12:24], *_pieces(signature)], where))
                else:
                    known = _NOT_SECRET.get(kind, 8 if kind.startswith("api_key.") else 0)
                    secret = value.partition("@")[0] if kind == "email" else value[known:]
                    self.pieces.update(dict.fromkeys(_pieces(secret), where))

    def in_bytes(self, data: bytes) -> dict[str, set[str]]:
        """What of which place is in the data, in any form that a reader or a program would undo."""
        found: dict[str, set[str]] = defaultdict(set)
        for place, kind in self._in_text("\n".join(_views(data))):
            found[place].add(kind)
        return found

    def _in_text(self, text: str) -> Iterator[Where]:
        pieces = self.pieces
        yield from {pieces[piece] for piece in _pieces(text) if piece in pieces}
        yield from (self.addresses[each] for each in _ADDRESS.findall(text) if each in self.addresses)
        for run in _RUN.findall(text):
            digits = re.sub(r"\D", "", run)
            # Windows of times in nanoseconds would be what a short number is, once in a while.
            lengths = _LONG_NUMBERS if len(digits) > 14 else _SHORT_NUMBERS
            for length in lengths:
                for at in range(len(digits) - length + 1):
                    if (where := self.numbers.get(digits[at : at + length])) is not None:
                        yield where


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(len(text) - _PIECE + 1))


def _views(data: bytes) -> Iterator[str]:
    """The data as text: without the zeros of UTF-16, with escapes of JSON and URLs undone, and base64 decoded."""
    text = data.replace(b"\0", b"").decode("utf-8", "ignore")
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    yield text
    if "%" in text:
        yield unquote(text)
    for token in {match[0] for match in _TOKEN.finditer(text)}:
        bare = token.replace("-", "+").replace("_", "/")
        for offset in range(4):
            part = bare[offset:]
            part = part[: len(part) - len(part) % 4] if len(part) % 4 == 1 else part + "=" * (-len(part) % 4)
            with contextlib.suppress(binascii.Error):
                yield base64.b64decode(part).decode("utf-8", "ignore")


# --- the runs -------------------------------------------------------------------------------------------------

_OFF: Final = """
base = "debug"
name = "off"
[content]
user_id = "full"
[detectors]
api_key = "off"
private_key = "off"
jwt = "off"
url_credentials = "off"
credential = "off"
secret = "off"
"""
_SETTINGS: Final = {
    "none": ("none", "strict"),
    "hash": ("hash", "strict"),
    "masked": ("masked", "strict"),
    "gdpr": ("masked", "gdpr"),
    "full": ("full", "off.toml"),
}


_RESOURCE: Final = {
    "note": canaries("resource.name").name,
    "process.command_line": f"serve --password {canaries('resource.command.word').word}",
}


Found = Mapping[str, set[str]]
"""Kinds of secret that were found, by place."""


class Ran(NamedTuple):
    """What one process left behind."""

    spans: list[ReceivedSpan]
    left: Mapping[str, bytes]
    """What left, by where to."""
    texts: Mapping[str, str]
    """The same to read, with escapes of JSON undone."""
    planted: frozenset[str]
    counts: Mapping[str, int]


def _play(mode: str, folder: Path) -> tuple[OtlpReceiver, bytes]:
    """Play all scenes in a process; what the receiver got, and what was printed."""
    folder.mkdir()
    (folder / "off.toml").write_text(_OFF)
    content, policy = _SETTINGS[mode]
    with OtlpReceiver() as receiver:
        given = {
            "AIOBS_CONTENT": content,
            "AIOBS_PRIVACY_POLICY": policy,
            "AIOBS_STORE": str(folder / "store"),
            "AIOBS_AUDIT": str(folder / "audit.jsonl"),
            "AIOBS_CONSOLE": "tree",
            "AIOBS_LOG": str(folder / "requests.jsonl"),
            "AIOBS_LOG_LEVEL": "DEBUG",
            "AIOBS_METRICS_DIR": str(folder / "metrics"),
            "AIOBS_METRIC_MAX_VALUES": "2000",
            "AIOBS_CONTENT_OVERFLOW": "store",
            "AIOBS_DIALECTS": "gen_ai,openinference",
            "AIOBS_SEMCONV": "both",
            "AIOBS_METADATA_KEYS": "allowed,listed,cut,card",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(
                f"{name}={quote(value)}" for name, value in _RESOURCE.items()
            ),
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": "authorization,x-note",
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": "set-cookie",
        }
        played = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("privacy_scenes.py")), str(folder)],
            cwd=folder, env={**os.environ, **given}, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert played.returncode == 0, played.stderr.decode()[-4_000:]
    return receiver, played.stderr + played.stdout


def _ran(folder: Path, receiver: OtlpReceiver, console: bytes) -> Ran:
    told = json.loads((folder / "planted.json").read_text())
    spans = receiver.spans
    left = {
        "wire": b"\n".join(receiver.raw),
        "wire, decoded": json.dumps(spans).encode(),  # numbers are no text there
        "console": console,
        "log": (folder / "logs.txt").read_bytes(),
        "audit log": (folder / "audit.jsonl").read_bytes(),
        "log lines": (folder / "requests.jsonl").read_bytes(),
        "metrics page": (folder / "page.txt").read_bytes(),
        "metrics of workers": b"".join(path.read_bytes() for path in (folder / "metrics").glob("*.metrics")),
        **_read_out(folder / "store"),
    }
    texts = {where: _readable(data) for where, data in left.items()}
    return Ran(spans, left, texts, frozenset(told["places"]), told["counts"])


def _read_out(store: Path) -> dict[str, bytes]:
    """What the commands print, and every file of the store's folder."""
    given = ["--store", str(store)]
    traces = [run["trace_id"] for run in json.loads(_printed("runs", "--json", "--limit", "1000", *given))]
    return {
        "aiobs export": _printed("export", "--format", "otlp-json", *given),
        "aiobs show --json": b"".join(_printed("show", trace, "--json", *given) for trace in traces),
        "aiobs show": b"".join(_printed("show", trace, *given) for trace in traces),
        **{path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()},
    }


def _readable(data: bytes) -> str:
    text = data.decode("utf-8", "ignore")
    return re.sub(r"\\+u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), re.sub(r"\\+n", "\n", text))


def _printed(*arguments: str) -> bytes:
    binary = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(binary, encoding="utf-8", write_through=True)) as out:
        assert cli.main(arguments) == 0
        out.detach()
    return binary.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ran]:
    folder = tmp_path_factory.mktemp("ran")
    with ThreadPoolExecutor(2) as pool:
        played = {mode: pool.submit(_play, mode, folder / mode) for mode in _SETTINGS}
    return {mode: _ran(folder / mode, *each.result()) for mode, each in played.items()}


@pytest.fixture(scope="module")
def found(ran: Mapping[str, Ran]) -> Mapping[str, Mapping[str, Found]]:
    """Of each run and each destination: which kinds of secret of which place are in what left."""
    needles = Needles(PLACES)
    return {
        mode: {where: needles.in_bytes(data) for where, data in run.left.items()} for mode, run in ran.items()
    }


MASKING: Final = ("none", "hash", "masked", "gdpr")


# --- what leaves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MASKING)
def test_no_canary_leaves(found: Mapping[str, Mapping[str, Found]], mode: str) -> None:
    left = {(where, place): kinds for where, places in found[mode].items() for place, kinds in places.items()}
    assert left == {}


def test_every_place_has_its_canaries(ran: Mapping[str, Ran]) -> None:
    assert len(PLACES) == len(set(PLACES))
    for run in ran.values():
        assert run.planted == set(PLACES)
        assert run.counts == {}  # nothing was lost, and nothing could not be read


@pytest.mark.parametrize("where", ["wire, decoded", "aiobs export", "aiobs show --json"])
def test_without_masking_the_canaries_of_every_place_are_seen(
    found: Mapping[str, Mapping[str, Found]], where: str
) -> None:
    """The search would find them, and what is masked in the other runs has been on its way."""
    seen = found["full"][where]
    unshown = set() if where == "aiobs export" else {"foreign.scope.name", "remote.state"}
    missing = {
        place: kinds
        for place in (*CONTENT, *NAMED, *USERS)
        if place not in unshown and (kinds := _planted_kinds(place) - seen.get(place, set()))
    }
    assert missing == {}


@pytest.mark.parametrize("where", ["log lines", "metrics page", "metrics of workers"])
def test_without_masking_they_are_seen_in_logs_and_metrics(
    found: Mapping[str, Mapping[str, Found]], where: str
) -> None:
    assert found["full"][where]


def test_without_masking_they_are_seen_in_the_bytes_of_the_wire(
    found: Mapping[str, Mapping[str, Found]],
) -> None:
    places = [place for place in CONTENT if not place.endswith(".number")]
    assert {place: _planted_kinds(place) - found["full"]["wire"].get(place, set()) for place in places} == {
        place: set() for place in places
    }


def test_what_is_held_back_leaves_in_no_mode(
    ran: Mapping[str, Ran], found: Mapping[str, Mapping[str, Found]]
) -> None:
    """Neither its secrets, even where nothing is masked, nor its harmless words."""
    assert [
        (where, each) for where, seen in found["full"].items() for each in seen if each in HELD_BACK
    ] == []
    assert _left_words(ran, HELD_BACK, tuple(ran)) == []


def test_without_content_not_even_the_harmless_words_leave(ran: Mapping[str, Ran]) -> None:
    assert _left_words(ran, (*CONTENT, *USERS), ("none", "hash")) == []


def _left_words(ran: Mapping[str, Ran], places: Sequence[str], modes: Sequence[str]) -> list[Sequence[str]]:
    return [
        (mode, where, place)
        for mode in modes
        for where, text in ran[mode].texts.items()
        for place in places
        if (words := _words(place)) and words in text
    ]


# --- what arrives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["masked", "gdpr"])
def test_the_rest_of_each_text_arrives(ran: Mapping[str, Ran], mode: str) -> None:
    for where in ("wire", "aiobs export"):
        text = ran[mode].texts[where]
        missing = [place for place in (*CONTENT, *NAMED) if (words := _words(place)) and words not in text]
        assert missing == []


_TAGGED: Final = re.compile(
    re.sub(
        r"<([A-Z_]+)>",
        r"<\1(?::[a-z]{8})?>",
        r"From <EMAIL> about ([a-z_ ]+) today: write to <EMAIL>, call <PHONE> or <PHONE>\. Card <CARD>, IBAN <IBAN>, "
        r"주민등록번호 <NATIONAL_ID>, SSN <NATIONAL_ID>\. Host <IP> with MAC <MAC>\. Keys <API_KEY> and <API_KEY> and "
        r"<API_KEY>, token <JWT>, password: <CREDENTIAL>, db postgres://<URL_CREDENTIALS>[^\n]{0,80} and then <SECRET> "
        r"too\.\n<PRIVATE_KEY>\nThanks a lot\.",
    )
)


@pytest.mark.parametrize("mode", ["masked", "gdpr"])
def test_each_secret_is_replaced_by_a_tag_of_its_type_and_the_words_between_stay(
    ran: Mapping[str, Ran], mode: str
) -> None:
    whole = {canaries(place).words for place in (*CONTENT, *NAMED) if _is_whole(place)}
    for where in ("wire", "aiobs export"):
        assert set(_TAGGED.findall(ran[mode].texts[where])) >= whole


def test_a_person_has_one_pseudonym_everywhere(ran: Mapping[str, Ran]) -> None:
    for where in ("wire", "aiobs export", "aiobs show --json"):
        said = re.findall(r"From <EMAIL:([a-z]{8})> about ([a-z_ ]+) today", ran["gdpr"].texts[where])
        assert len({pseudonym for pseudonym, _ in said}) == 1
        assert {words for _, words in said} >= {
            canaries(place).words for place in CONTENT if _is_whole(place)
        }
    assert not re.search(r"From <EMAIL:", ran["masked"].texts["wire"])


def test_messages_of_a_model_keep_their_shape(ran: Mapping[str, Ran]) -> None:
    asked, said = _messages(ran["masked"], "lc.history.human")
    assert [message["role"] for message in asked] == [
        "system",
        "user",
        "assistant",
        "assistant",
        "tool",
        "user",
    ]
    system, human, ai, calling, answer, last = (message["parts"] for message in asked)
    for (part,), place in ((system, "lc.system"), (human, "lc.history.human"), (ai, "lc.history.ai")):
        assert part["type"] == "text"
        assert part["content"].startswith(
            f"From <EMAIL> about {canaries(place).words} today: write to <EMAIL>, call <PHONE>"
        )
    assert (calling[0]["type"], calling[0]["id"], calling[0]["name"]) == ("tool_call", "call-1", "look")
    assert "<API_KEY>" in calling[0]["arguments"]["q"]
    assert (answer[0]["type"], answer[0]["id"]) == ("tool_call_response", "call-1")
    assert "<IBAN>" in answer[0]["response"]
    assert last == [{"type": "text", "content": "What is this?"}]
    assert [part["type"] for part in said[0]["parts"]] == ["text", "tool_call"]
    assert said[0]["finish_reason"] == "stop"
    asked, said = _messages(ran["masked"], "li.history.user")
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool", "user", "user"]
    assert len(said) == 1


@pytest.mark.parametrize("framework", ["lc", "li"])
def test_a_text_in_two_parts_stays_in_two_parts(ran: Mapping[str, Ran], framework: str) -> None:
    asked, _ = _messages(ran["masked"], f"{framework}.prompt.halves")
    (parts,) = (each["parts"] for each in asked if canaries(f"{framework}.prompt.halves").words in str(each))
    before, after = (part["content"] for part in parts)
    assert before.endswith("today: the key is <API_KEY>")
    assert after == " thanks a lot."


def test_tools_documents_and_texts_keep_their_shape(ran: Mapping[str, Ran]) -> None:
    spans = ran["masked"].spans
    arguments = _value(spans, "gen_ai.tool.call.arguments", "lc.tool.arguments")["query"]
    assert "<EMAIL>" in arguments["deep"][0]["text"]
    assert arguments["deep"][0]["login"] == {"password": "<CREDENTIAL>"}
    assert arguments["paid with"] == "<CARD>"
    assert [value for key, value in arguments.items() if key.startswith("From <EMAIL>")] == [1]
    assert "<CARD>" in _value(spans, "gen_ai.tool.call.result", "lc.tool.result.dict")["found"][0]["text"]
    assert "<CARD>" in _value(spans, "gen_ai.tool.call.result", "lc.tool.result.model")["text"]
    assert "<CARD>" in _value(spans, "gen_ai.tool.call.result", "li.agent.result")
    document, disguised = _value(spans, "gen_ai.retrieval.documents", "lc.document")
    assert "<PHONE>" in document["content"]
    assert "<PHONE>" in document["metadata"]["by"]
    assert "<CARD>; <NATIONAL_ID>; <API_KEY>; <EMAIL>" in disguised["content"]
    assert "<PHONE>" in _value(spans, "gen_ai.retrieval.documents", "li.document")[0]["metadata"]["by"]
    assert "<IP>" in _value(spans, "gen_ai.retrieval.query.text", "lc.query")
    assert "<IP>" in _value(spans, "ai.agent.embedding.texts", "lc.embedding.text")[0]


def test_streams_arrive_as_one_text(ran: Mapping[str, Ran]) -> None:
    for place in ("lc.stream", "lc.astream", "lc.stream.partial", "li.stream", "li.astream"):
        (said,) = (
            span["attributes"]["gen_ai.output.messages"]
            for span in ran["masked"].spans
            if f"about {canaries(place).words} today" in str(span["attributes"].get("gen_ai.output.messages"))
        )
        ((part,),) = (message["parts"] for message in json.loads(str(said)))
        assert "<API_KEY> and <API_KEY> and <API_KEY>, token <JWT>" in part["content"]


def test_hashes_stand_in_for_what_is_not_shown(ran: Mapping[str, Ran]) -> None:
    names = {name for span in ran["hash"].spans for name in span["attributes"]}
    assert names >= {
        semconv.PROMPT_HASH,
        semconv.COMPLETION_HASH,
        semconv.SYSTEM_HASH,
        semconv.TOOL_ARGUMENTS_HASH,
        semconv.TOOL_RESULT_HASH,
        semconv.DOCUMENTS_HASH,
        semconv.EMBEDDING_TEXTS_HASH,
        semconv.USER_ID,
    }


def test_the_server_of_a_model_is_named_without_what_its_url_gives_away(ran: Mapping[str, Ran]) -> None:
    for run in ran.values():
        addresses = {span["attributes"].get("server.address") for span in run.spans}
        assert "llm.example.com" in addresses


def test_counts_of_another_instrumentation_arrive(ran: Mapping[str, Ran]) -> None:
    counted = [
        span["attributes"]["llm.token_count.prompt"]
        for span in ran["masked"].spans
        if span["scope"]["name"] == "openinference.instrumentation.langchain"
        and "llm.token_count.prompt" in span["attributes"]
    ]
    assert counted == [11]


# --- the search itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(canaries("a.place").values))
def test_the_search_sees_each_kind_in_every_form(kind: str) -> None:
    needles, value = Needles(["a.place"]), canaries("a.place").values[kind]
    text = f"so {value} it is"
    wide = "".join(chr(ord(each) + 0xFEE0) if each.isascii() and each.isalnum() else each for each in value)
    forms = {
        "plain": text.encode(),
        "JSON": "".join(f"\\u{ord(each):04x}" for each in text).encode(),
        "URL": quote(text).encode(),
        "URL, all of it": "".join(f"%{ord(each):02x}" for each in text).encode(),
        "UTF-16": text.encode("utf-16-le"),
        "full-width": wide.encode(),
        "zero-width": f"so {value[:3]}\u200b{value[3:]} it is".encode(),
        **{f"base64 at {at}": base64.b64encode(b"-" * at + text.encode()) for at in range(3)},
    }
    assert [name for name, data in forms.items() if needles.in_bytes(data) != {"a.place": {kind}}] == []


def test_the_search_sees_pieces() -> None:
    needles, value = Needles(["a.place"]), canaries("a.place").values
    for kind, text in {
        "email": value["email"].partition("@")[0],
        "secret": value["secret"][20:32],
        "private_key": value["private_key"][-12:],
        "card": value["card"].replace(" ", ""),
        "iban": value["iban"][2:],
    }.items():
        assert needles.in_bytes(f"({text})".encode()) == {"a.place": {kind}}
    assert needles.in_bytes(canaries("another.place").text.encode()) == {"*": {"person"}}


# --- what no place of the runs shows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Server 82.141.110.134",
        "Server: 82.141.110.134",
        "driver 82.141.110.134",
        "receiver=82.141.110.134",
    ],
)
def test_the_address_of_a_server_is_no_version(text: str) -> None:
    assert "82.141.110.134" not in Masker(PRESETS["strict"], Hasher(NO_KEYS)).text(text)


def test_every_korean_mobile_number_is_found() -> None:
    masker = Masker(PRESETS["strict"], Hasher(NO_KEYS))
    assert [at for at in range(2_000, 10_000, 7) if f"{at}" in masker.text(f"call 010-{at}-3514 now")] == []


# --- small parts ------------------------------------------------------------------------------------------------


def _form(place: str) -> str:
    form = place.rpartition(".")[2]
    return form if form in {*FORMS, *EDGES} else "text"


def _is_whole(place: str) -> bool:
    """Whether all that a person might write stands there."""
    return _form(place) == "text" and place not in {"lc.stream.partial", "remote.state"}


def _words(place: str) -> str | None:
    """Harmless words that stand in this place only; None for what is nothing but a secret."""
    form, words = _form(place), canaries(place).words
    if place in {"httpx.url", "remote.state"}:
        return None
    if form == "name":
        return f"of {words} by"
    return f"about {words} today" if form in {"text", "disguised", "halves", *EDGES} else None


def _planted_kinds(place: str) -> set[str]:
    """Kinds of secret that the place's text holds."""
    of, value = canaries(place), canaries(place).values
    keys = [name for name in value if name.startswith("api_key.")]
    known = {"httpx.url": {"email", "query_token", "secret"}, "remote.state": {"secret"}}
    by_form = {
        "text": set(value),
        "disguised": {keys[0], "card", "email", "phone_kr", "rrn", "secret"},
        "halves": {name for name in keys if value[name] == of.key},
        "bare": {"credential", "email"},
        "named": {"credential"},
        "word": {"credential"},
        "number": {"card"},
        "url": {"email", "query_token", "url_credentials"},
    }
    return known.get(place) or by_form.get(_form(place), {"email"})


def _messages(run: Ran, place: str) -> tuple[list[Any], list[Any]]:
    """Input and output of the one model call that was asked this."""
    (found,) = (
        span["attributes"]
        for span in run.spans
        if str(_words(place)) in str(span["attributes"].get("gen_ai.input.messages"))
        and span["scope"]["name"].startswith("aiobs.")
    )
    return (
        json.loads(str(found["gen_ai.input.messages"])),
        json.loads(str(found.get("gen_ai.output.messages", "[]"))),
    )


def _value(spans: Sequence[ReceivedSpan], name: str, place: str) -> Any:
    """The first attribute of that name with the words of the place; JSON where it is."""
    found = (str(span["attributes"].get(name)) for span in spans)
    text = next(text for text in found if str(_words(place)) in text)
    return json.loads(text) if text[:1] in {"{", "["} else text
