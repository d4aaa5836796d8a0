"""The stage `mask`, and the masking of every attribute: what the corridor knows of privacy."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from aiobs_core import semconv
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._run import Run
from aiobs_core._switches import TRACES
from aiobs_core.privacy.calls import call_of
from aiobs_core.privacy.content import Asked, ContentReader, Rules, Tally, rules_of
from aiobs_core.privacy.foreign import ForeignMask, ForeignSpan
from aiobs_core.privacy.hashing import NO_KEYS, Hasher, HashKeys, is_hash
from aiobs_core.privacy.keys import keys_in_force
from aiobs_core.privacy.modes import modes_in_force
from aiobs_core.privacy.overflow import MAX_CHARS, put_aside
from aiobs_core.privacy.policy import CLOSED, PRESETS, Policy
from aiobs_core.privacy.trail import Trail
from aiobs_core.sampling.threshold import with_threshold

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.masker import Masker

_MAX_USERS: Final = 4_096
_ATTRIBUTES: Final = "attributes"
# Ids without a meaning, and nothing that a detector could find in: not worth a search.
_OPAQUE: Final = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID: Final = re.compile(r"[A-Za-z0-9_\-.:]{1,128}")
_OF_PROVIDERS: Final = frozenset(
    {semconv.GEN_AI_RESPONSE_ID, semconv.GEN_AI_TOOL_CALL_ID, semconv.INTERRUPT_ID}
)
# Where a service is, which everybody who runs it may know.
_ADDRESSES: Final = frozenset({semconv.ENDPOINT, semconv.SERVER_ADDRESS})


class Privacy:
    """Rules by policy, hashes, content and counts. Used by the worker only."""

    def __init__(self, settings: Settings, health: Health, *, store_folder: Path | None = None) -> None:
        self._settings = settings
        self._health = health
        self._is_closed = settings.privacy_policy is CLOSED
        self._named = {policy.name: policy for policy in settings.privacy_policies or PRESETS.values()}
        self._named[settings.privacy_policy.name] = settings.privacy_policy
        self._hasher: Hasher | None = None
        self._rules: dict[str | None, Rules] = {}
        self._users: dict[tuple[str, str], str | None] = {}
        self._resources: list[tuple[Resource, Resource]] = []
        self._overflow_folder = store_folder if settings.content_overflow == "store" else None
        self.trail = Trail(settings, health, store_folder)

    @property
    def hasher(self) -> Hasher:
        """Made when first asked for: a key of this installation may have to be made."""
        if self._hasher is None:
            keys = self._keys()
            self._hasher = Hasher(keys)
            self.trail.begin(keys, self._hasher.key_id)
        return self._hasher

    def _keys(self) -> HashKeys:
        try:
            return keys_in_force(self._settings)
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"expected {error}" if isinstance(error, ValueError) else type(error).__name__
            self._health.problem(
                "privacy.key",
                f"aiobs: the key of this installation cannot be used ({reason}); hashes are left out. Set AIOBS_HASH_KEY "
                "or AIOBS_HASH_KEY_FILE.",
            )
            return NO_KEYS

    # --- rules ------------------------------------------------------------------------------------------------------

    def rules(self, name: str | None = None) -> Rules:
        """The rules of a policy by its name, or of the process; those of an unknown one let no content out."""
        rules = self._rules.get(name)
        if rules is not None:
            return rules
        if self._is_closed or (name is not None and name not in self._named):
            if name is not None and not self._is_closed:
                self._health.problem(  # without the name, which may come with the request
                    "privacy.unknown_policy",
                    "aiobs: using_attributes(privacy_policy=…) was given a name that no policy has; accepted: "
                    f"{', '.join(sorted(self._named))}. No content of these runs leaves.",
                )
            name = CLOSED.name  # one for all names: there may be as many as there are requests
        if name not in self._rules:
            self._rules[name] = self._make_rules(name)
        return self._rules[name]

    def _make_rules(self, name: str | None) -> Rules:
        chosen = self._settings.privacy_policy if name is None else self._named.get(name, CLOSED)
        masker = self._masker(chosen)
        policy = masker.policy
        if name is not None:
            self.trail.note_policy(policy)
        modes = modes_in_force(policy, self._settings, "spans")
        is_default = name is None or (policy is not CLOSED and policy is self._settings.privacy_policy)
        return rules_of(policy, modes, masker, is_default=is_default)

    def _masker(self, policy: Policy) -> Masker:
        with uninterrupted_by_fork():
            from aiobs_core.privacy.masker import Masker  # 60 ms, which no import of aiobs should take

        try:
            return Masker(policy, self.hasher)
        except Exception as error:  # noqa: BLE001 (Presidio or its model is missing, or a pattern is none)
            self._health.problem(
                "privacy.engine",
                f"aiobs: a detector of the policy {policy.name} cannot be made ({type(error).__name__}: {error}); no content "
                "leaves. `person` and `location` need `pip install 'aiobs-core[presidio]'` and a model of spaCy's.",
            )
            return Masker(CLOSED, self.hasher)

    # --- the stage --------------------------------------------------------------------------------------------------

    def mask(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Give each kept run its content, as its policy allows."""
        for item in batch:
            if type(item) is Run:
                try:
                    self._mask(item)
                except Exception as error:  # noqa: BLE001 (one odd run must not cost the others; it leaves without content)
                    self._unmasked(item, error)
        self.trail.keep()
        return batch

    def _mask(self, run: Run) -> None:
        request = run.span.request
        policy = None if request is None else request.privacy_policy
        run.rules = rules = self._rules.get(policy) or self.rules(policy)
        run.tally = tally = Tally()
        if run.kind in rules.read_kinds and run.span.trace.signals & TRACES:  # lines read for themselves
            run.content = self._content_of(run, rules, tally)
        user = (None if request is None else request.user_id) or run.operation.user_id
        if user:
            self._add_user(semconv.USER_ID, str(user), rules, tally, run.content)
        if request is not None and request.tenant_id:
            self._add_user(semconv.TENANT_ID, request.tenant_id, rules, tally, run.content)
        if not rules.is_default:
            run.content[semconv.PRIVACY_POLICY] = rules.policy.name

    def _unmasked(self, run: Run, error: Exception) -> None:
        self._health.problem(
            "privacy.mask",
            f"aiobs could not mask the content of a {run.span.scope} run ({type(error).__name__}); its span leaves without.",
        )
        run.content = {semconv.TELEMETRY_ERROR: type(error).__name__}

    def _content_of(self, run: Run, rules: Rules, tally: Tally) -> dict[str, Any]:
        operation, outcome = run.operation, run.outcome
        reader = ContentReader(rules, tally, self.hasher, max_chars=self._settings.content_max_chars)
        try:
            reader.read(Asked(run.kind, operation.content, outcome.content, outcome.finish_reasons))
        except Exception as error:  # noqa: BLE001 (foreign messages may raise anything; marked, counted, warned)
            self._health.problem(
                "mapping.content",
                f"aiobs could not read the content of a {run.span.scope} run ({type(error).__name__}); its span leaves "
                f"without, marked with {semconv.TELEMETRY_ERROR}.",
            )
            reader.found[semconv.TELEMETRY_ERROR] = type(error).__name__
        if reader.is_cut and self._overflow_folder is not None:
            self._put_aside(self._overflow_folder, run, rules, reader.found)
        return reader.found

    def _put_aside(self, folder: Path, run: Run, rules: Rules, found: dict[str, Any]) -> None:
        whole = ContentReader(rules, Tally(), self.hasher, max_chars=MAX_CHARS)
        try:
            whole.read(
                Asked(run.kind, run.operation.content, run.outcome.content, run.outcome.finish_reasons)
            )
            found[semconv.CONTENT_REF] = put_aside(
                folder, f"{run.span.trace.trace_id:032x}-{run.span.span_id:016x}", whole.found
            )
        except Exception as error:  # noqa: BLE001 (the disk, or a foreign object that is read a second time)
            self._health.problem(
                "privacy.overflow",
                f"aiobs: content that is too long for an attribute cannot be written below {folder} "
                f"({type(error).__name__}); it is cut.",
            )

    def _add_user(self, name: str, user: str, rules: Rules, tally: Tally, found: dict[str, Any]) -> None:
        mode = rules.modes["user_id"]
        if mode == "hash":
            key = (mode, user)
            if key not in self._users:
                if len(self._users) >= _MAX_USERS:
                    self._users.clear()
                # One that came with a request was hashed by whoever sent it.
                self._users[key] = user if is_hash(user) else self.hasher.hash("user_id", user)
            if (digest := self._users[key]) is not None:
                found[name] = digest
        elif mode == "masked":
            found[name] = rules.masker.text(user, tally.of("user_id"), max_chars=256)
        elif mode == "full":
            found[name] = user[:256]

    def exception(self, run: Run) -> dict[str, str]:
        """Message and stack of the error that ended a run, as far as its policy lets them out."""
        error, rules = run.error, run.rules
        if (
            error is None or rules is None or run.tally is None or run.error_type is None
        ):  # a pause is no error
            return {}
        return self.exception_texts(
            {
                semconv.EXCEPTION_MESSAGE: _said(error),
                semconv.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(error)),
            },
            rules,
            run.tally,
        )

    def exception_texts(self, texts: Mapping[str, str], rules: Rules, tally: Tally) -> dict[str, str]:
        """Texts of an exception as the mode of `exceptions` allows."""
        mode = rules.modes["exceptions"]
        most = self._settings.content_max_chars
        if mode == "masked":
            count = tally.of("exceptions")
            return {name: rules.masker.text(text, count, max_chars=most) for name, text in texts.items()}
        return {name: text[:most] for name, text in texts.items()} if mode == "full" else {}

    # --- other instrumentations -------------------------------------------------------------------------------------

    def foreign_mask(self, rules: Rules, tally: Tally) -> ForeignMask:
        """For what an application puts on a span, whether aiobs or another instrumentation made it."""
        return ForeignMask(rules, tally, max_chars=self._settings.content_max_chars)

    def masked_span(self, span: ReadableSpan, policy: str | None) -> ReadableSpan:
        """The span of another instrumentation as it may leave."""
        rules, tally = self.rules(policy), Tally()
        mask = ForeignMask(rules, tally, max_chars=self._settings.content_max_chars)
        masked = mask.span(span, self.masked_resource(span.resource))
        user = (span.attributes or {}).get(semconv.OI_USER_ID)
        noted: dict[str, Any] = call_of(span.kind, masked.attributes or {})
        if user and isinstance(user, (str, int, float)) and rules.modes["user_id"] == "hash":
            self._add_user(semconv.USER_ID, str(user), rules, tally, noted)
        if tally.found:
            self.close(tally, rules, noted)
        if noted:
            masked._attributes = {**(masked.attributes or {}), **noted}  # noqa: SLF001 (made above, seen by nobody yet)
        return masked

    def masked_foreign(self, item: ForeignSpan) -> ReadableSpan:
        """The span of another instrumentation as it may leave, with what aiobs has to tell of it."""
        masked = self.masked_span(item.span, item.policy)
        if item.told:
            masked._attributes = {**(masked.attributes or {}), **item.told}  # noqa: SLF001 (as above)
        if item.threshold is not None and (context := masked.context) is not None:
            state = with_threshold(context.trace_state, item.threshold)
            ids = context.trace_id, context.span_id, context.is_remote, context.trace_flags
            masked._context = SpanContext(*ids, state)  # noqa: SLF001 (as above)
        return masked

    def masked_resource(self, resource: Resource) -> Resource:
        """The resource with what its detectors found masked: the command line of the process, its environment."""
        for known, masked in self._resources:
            if known is resource:
                return masked
        mask = ForeignMask(self.rules(), Tally(), max_chars=self._settings.content_max_chars)
        changed = Resource(mask.attributes(resource.attributes), resource.schema_url)
        masked = resource if changed.attributes == resource.attributes else changed
        self._resources = [*self._resources[-3:], (resource, masked)]
        return masked

    # --- attributes -------------------------------------------------------------------------------------------------

    def text(self, name: str, text: str, rules: Rules, tally: Tally, *, max_chars: int | None = None) -> str:
        """The value of an attribute, with what the detectors of the policy find in it replaced."""
        if _OPAQUE.fullmatch(text) or (name in _OF_PROVIDERS and _ID.fullmatch(text)) or name in _ADDRESSES:
            return text
        return rules.masker.text(text, tally.of(_ATTRIBUTES), max_chars=max_chars)

    def close(self, tally: Tally, rules: Rules, attributes: dict[str, Any]) -> None:
        """Note in a span what was masked in it, and count it."""
        found = tally.found
        attributes[semconv.MASKED_COUNT] = len(found)
        attributes[semconv.MASKED_VALUES] = tuple(sorted(set(found)))
        self.trail.counts.update((rules.policy.name, each) for each in found)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as raised:  # noqa: BLE001 (an exception whose own text raises)
        return f"<no text: {type(raised).__name__}>"
