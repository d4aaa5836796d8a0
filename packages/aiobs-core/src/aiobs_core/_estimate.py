"""Token counts where a provider reports none: only if `AIOBS_ESTIMATE_USAGE` asks for it, and marked as `estimated`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core._operation import Content, Usage

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._operation import Operation, Outcome

_DEFAULT_ENCODING: Final = "o200k_base"
_LOAD_S: Final = 3.0
_MAX_MODELS: Final = 256
_PER_MESSAGE: Final = 4  # what OpenAI's chat format adds: https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
_PER_REPLY: Final = 3


class Estimator:
    """Counts the tokens of a model call's messages with tiktoken, in the encoding of its model.

    For models of other families than OpenAI's it uses `o200k_base`, which is usually within a fifth of their own count.
    tiktoken may fetch an encoding when it is first used (`TIKTOKEN_CACHE_DIR` holds a copy), so encodings are loaded on a
    thread of their own. The first call in an encoding waits for it, for 3 s at the most; calls that are read before it is
    there stay without an estimate. Used by the worker only.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._encodings: dict[str, Any] = {}
        self._loading: set[str] = set()

    def usage(self, operation: Operation, outcome: Outcome) -> Usage | None:
        """The estimate of one call; None where its messages are not known, or cannot be counted."""
        if operation.content is None and outcome.content is None:
            return None
        encoding = self._encoding(operation.model or outcome.model or "")
        if encoding is None:
            return None
        asked, said = _texts(operation.content), _texts(outcome.content)
        overhead = _PER_MESSAGE * len(asked) + _PER_REPLY if operation.action != "text_completion" else 0
        return Usage(
            input_tokens=_count(encoding, asked) + overhead if asked else None,
            output_tokens=_count(encoding, said) if outcome.content is not None else None,
            source="estimated",
        )

    def _encoding(self, model: str) -> Any:
        if model not in self._loading:
            if len(self._loading) >= _MAX_MODELS:
                self._loading.clear()
                self._encodings.clear()
            self._loading.add(model)
            loader = threading.Thread(target=self._load, args=(model,), name="aiobs-tokenizer", daemon=True)
            loader.start()
            loader.join(_LOAD_S)
        return self._encodings.get(model)

    def _load(self, model: str) -> None:
        try:
            import tiktoken

            try:
                name = tiktoken.encoding_name_for_model(model)
            except KeyError:
                name = _DEFAULT_ENCODING
            self._encodings[model] = tiktoken.get_encoding(name)
        except Exception as error:  # noqa: BLE001 (not installed, or no network: counted and warned once)
            self._health.problem(
                "estimate",
                f"aiobs: AIOBS_ESTIMATE_USAGE is on, and tiktoken could not load the encoding of a model "
                f"({type(error).__name__}); its calls stay without token counts. `pip install aiobs-core[estimate]` "
                "installs tiktoken; TIKTOKEN_CACHE_DIR names a folder with encodings for machines without network.",
            )


def _texts(content: Any) -> list[str]:
    """One text per message: its parts, tool calls included, one after the other."""
    messages: Content = content() if content is not None else ()
    return ["".join(_text(part) for part in _parts(message)) for message in messages]


def _parts(message: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    return message.get("parts") or ()  # type: ignore[return-value]  # the shape is `Content`'s


def _text(part: Mapping[str, object]) -> str:
    if part.get("type") == "tool_call":
        return f"{part.get('name')}{part.get('arguments')}"
    text = part.get("content") or part.get("response")
    return text if isinstance(text, str) else ""


def _count(encoding: Any, texts: Sequence[str]) -> int:
    return sum(len(encoding.encode(text, disallowed_special=())) for text in texts)
