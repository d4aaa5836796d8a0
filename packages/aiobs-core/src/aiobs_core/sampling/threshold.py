"""Consistent probability sampling as OpenTelemetry defines it: randomness of a trace, thresholds, and `ot` in `tracestate`.

A trace has 56 random bits: those its `tracestate` carries (`rv`), else the last ones of its id. It is kept where they are at
least the threshold of the probability, so every service that uses the same probability keeps the same traces. The threshold
travels with kept spans (`th`), which tells backends how many traces each stands for.
See https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.trace import TraceState

RANDOM_VALUES: Final = 1 << 56
_MASK: Final = RANDOM_VALUES - 1
_DIGITS: Final = 14
_PRECISION: Final = (
    5  # hexadecimal digits of a threshold that tell something, as the specification suggests at least
)
_OTEL: Final = "ot"
_MAX_ENTRIES: Final = 32
_MAX_VALUE_CHARS: Final = 256
_HEX: Final = frozenset("0123456789abcdef")


def threshold_of(probability: float) -> int:
    """The threshold of a probability from 0 to 1, rounded so that it can be written short; 0 keeps all, 2**56 nothing.

    A probability that no threshold can tell from 0 keeps nothing.
    """
    exact = round((1.0 - min(max(probability, 0.0), 1.0)) * RANDOM_VALUES)
    digits = f"{exact:014x}"
    leading = _DIGITS if exact >= RANDOM_VALUES else len(digits) - len(digits.lstrip("f"))
    step = 1 << (4 * max(0, _DIGITS - leading - _PRECISION))
    rounded = (exact + step // 2) // step * step
    return rounded if rounded < RANDOM_VALUES else exact


def probability_of(threshold: int) -> float:
    """The share of traces that a threshold keeps."""
    return (RANDOM_VALUES - threshold) / RANDOM_VALUES


def adjusted_count_of(threshold: int) -> float:
    """How many traces a kept one stands for; of a threshold that keeps some."""
    return RANDOM_VALUES / (RANDOM_VALUES - threshold)


def randomness_of(trace_id: int, state: TraceState | None = None) -> int:
    """The 56 random bits of a trace."""
    if state:
        given = _sub_keys(state).get("rv", "")
        if len(given) == _DIGITS and _HEX.issuperset(given):
            return int(given, 16)
    return trace_id & _MASK


def mixed(trace_id: int) -> int:
    """Other 56 bits that follow from the trace id, for a second decision that must not depend on a first one.

    Samplers by ratio (`TraceIdRatioBased`) look at the id, too: of what they keep, the id's own bits would keep all or none.
    """
    bits = (trace_id ^ (trace_id >> 64)) & 0xFFFF_FFFF_FFFF_FFFF
    bits = (
        bits ^ (bits >> 30)
    ) * 0xBF58_476D_1CE4_E5B9 & 0xFFFF_FFFF_FFFF_FFFF  # the finalizer of SplitMix64
    bits = (bits ^ (bits >> 27)) * 0x94D0_49BB_1331_11EB & 0xFFFF_FFFF_FFFF_FFFF
    return (bits ^ (bits >> 31)) >> 8


def threshold_in(state: TraceState | None) -> int | None:
    """The threshold by which somebody upstream has kept the trace; None if nobody says so."""
    if not state:
        return None
    given = _sub_keys(state).get("th", "")
    if not 1 <= len(given) <= _DIGITS or not _HEX.issuperset(given):
        return None
    return int(given.ljust(_DIGITS, "0"), 16)


def upstream_threshold(trace_id: int, state: TraceState | None) -> int | None:
    """The threshold by which somebody upstream has kept the trace; None if nobody says so, or it is not to be believed.

    Whoever keeps traces consistently has kept none whose random bits are below the threshold. The specification has such a one
    ignored: it would weigh what it did not sample.
    """
    threshold = threshold_in(state)
    return threshold if threshold is not None and randomness_of(trace_id, state) >= threshold else None


def with_threshold(state: TraceState | None, threshold: int) -> TraceState:
    """The `tracestate` of a kept trace: all that it had, and the threshold."""
    state = TraceState() if state is None else state
    keys = {**_sub_keys(state), "th": f"{threshold:014x}".rstrip("0") or "0"}
    value = ";".join(f"{key}:{keys[key]}" for key in sorted(keys, key=lambda key: key != "th"))
    if len(value) > _MAX_VALUE_CHARS:
        value = f"th:{keys['th']}"
    # What changed stands first, and of too many entries the last one goes, as W3C says: strangers may send a full list.
    others = [(key, given) for key, given in state.items() if key != _OTEL]
    return TraceState([(_OTEL, value), *others[: _MAX_ENTRIES - 1]])


def _sub_keys(state: TraceState) -> dict[str, str]:
    pairs = (pair.partition(":") for pair in state.get(_OTEL, "").split(";"))
    return {key: value for key, colon, value in pairs if colon}
