"""From tokens and prices to dollars, exactly: every token is billed once, at the most specific price that there is for it.

A price for a part (cached, audio, image, reasoning) takes those tokens out of the price of the whole; without one they
are billed like the rest, and still shown as a part of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Final, NamedTuple

from aiobs_core._operation import Usage

Price = tuple[Decimal, tuple[tuple[int, Decimal], ...]]
"""Of one unit: the price, and others that hold for all tokens of a call with more input tokens than the number beside them."""

TOKENS_PER_PRICE: Final = 1_000_000
REQUESTS: Final = "requests_kcount"
_REQUESTS_PER_PRICE: Final = 1000
# A context of our own: the application may have set another precision, and traps, for its threads. 60 digits hold any sum
# of counts below the limit at any price in a table, so nothing is ever rounded.
_EXACT: Final = Context(prec=60, traps=[])
_MAX_TOKENS: Final = 10**15  # more is no count; a provider that reports it is not to be believed
_ZERO: Final = Decimal(0)


class Cost(NamedTuple):
    """What one call cost, in US dollars; the parts sum exactly to the total.

    Attributes:
        total_usd: All of it.
        input_usd: Input that was neither read from a cache nor written to one.
        cached_usd: Cache reads.
        cache_write_usd: Cache writes.
        output_usd: Output without reasoning.
        reasoning_usd: Reasoning.
        other_usd: Fees by request.
        provider: Id of the provider in the table, or as the price file says.
        model: Id of the row that matched.
        source: `table`, or `file` for the user's own price.
        valid_from: First day of the price (ISO), if it is known.
    """

    total_usd: Decimal
    input_usd: Decimal
    cached_usd: Decimal
    cache_write_usd: Decimal
    output_usd: Decimal
    reasoning_usd: Decimal
    other_usd: Decimal
    provider: str
    model: str
    source: str
    valid_from: str | None


class Bill(NamedTuple):
    """The sums of one call, in the order of `Cost`."""

    total_usd: Decimal
    input_usd: Decimal
    cached_usd: Decimal
    cache_write_usd: Decimal
    output_usd: Decimal
    reasoning_usd: Decimal
    other_usd: Decimal


NOTHING: Final = Bill(*[_ZERO] * 7)


class _Kind(NamedTuple):
    """Tokens that have one price: where they show up in a bill, and the prices that may be theirs, the best one first."""

    part: int
    price_names: tuple[str, ...]


_INPUT, _CACHED, _CACHE_WRITE, _OUTPUT, _REASONING = range(5)
_INPUT_KINDS: Final = (
    _Kind(_INPUT, ("input_mtok",)),
    _Kind(_INPUT, ("input_audio_mtok", "input_mtok")),
    _Kind(_INPUT, ("input_image_mtok", "input_mtok")),
    _Kind(_CACHED, ("cache_read_mtok", "input_mtok")),
    _Kind(_CACHED, ("cache_audio_read_mtok", "cache_read_mtok", "input_audio_mtok", "input_mtok")),
    _Kind(_CACHED, ("cache_image_read_mtok", "cache_read_mtok", "input_image_mtok", "input_mtok")),
    _Kind(_CACHE_WRITE, ("cache_write_mtok", "input_mtok")),
    _Kind(_CACHE_WRITE, ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok")),
)
_OUTPUT_KINDS: Final = (
    _Kind(_OUTPUT, ("output_mtok",)),
    _Kind(_OUTPUT, ("output_audio_mtok", "output_mtok")),
    _Kind(_OUTPUT, ("output_image_mtok", "output_mtok")),
    _Kind(_REASONING, ("output_reasoning_mtok", "output_mtok")),
)
_KINDS: Final = (*_INPUT_KINDS, *_OUTPUT_KINDS)
_UNCACHED_TEXT, _CACHED_TEXT, _OUTPUT_TEXT, _REASONING_TEXT = 0, 3, 8, 11  # places in `_KINDS`
_PARTS: Final = tuple(kind.part for kind in _KINDS)
TOKEN_PRICES: Final = tuple(dict.fromkeys(kind.price_names[0] for kind in _KINDS))
"""Names of the prices that a bill is made of, as the table has them."""


class Rates:
    """The prices of one model at one time, ready to be multiplied."""

    __slots__ = ("_fee", "_steps", "prices")

    def __init__(self, prices: Mapping[str, Price]) -> None:
        """Work out which price each kind of token has, for each length of input at which one changes.

        Args:
            prices: By the table's names; what is not a price of tokens or requests is left out.
        """
        self.prices = prices
        starts = sorted({start for _, tiers in prices.values() for start, _ in tiers}, reverse=True)
        self._steps = tuple((start, _rates(prices, start)) for start in (*starts, -1))
        self._fee = price_at(prices[REQUESTS], 0) / _REQUESTS_PER_PRICE if REQUESTS in prices else _ZERO

    @property
    def count_tokens_or_requests(self) -> bool:
        """Whether usage can be billed by them at all; others charge by the second, page, character or message."""
        return not self.prices or any(name in self.prices for name in ("input_mtok", "output_mtok", REQUESTS))

    def total(self, usage: Usage) -> Decimal:
        """What the usage costs at these prices: that of the bill, in half the time."""
        plain = _plain(usage)
        if plain is None:
            return self.bill(usage).total_usd
        uncached, cached, output, reasoning = plain
        rates = self._at(uncached + cached)
        multiply_and_add = _EXACT.fma
        total = multiply_and_add(rates[_UNCACHED_TEXT], uncached, self._fee)
        total = multiply_and_add(rates[_OUTPUT_TEXT], output, total)
        if cached:
            total = multiply_and_add(rates[_CACHED_TEXT], cached, total)
        return multiply_and_add(rates[_REASONING_TEXT], reasoning, total) if reasoning else total

    def bill(self, usage: Usage) -> Bill:
        """What the usage costs at these prices, with the parts."""
        plain = _plain(usage)
        if plain is not None:
            return self._plain_bill(plain)
        counts = _counts(usage)
        rates = self._at(sum(counts[: len(_INPUT_KINDS)]))
        parts = [_ZERO] * 5
        total = self._fee
        add, multiply = _EXACT.add, _EXACT.multiply
        for count, rate, part in zip(counts, rates, _PARTS, strict=True):
            if count and rate:
                amount = multiply(rate, count)
                parts[part] = add(parts[part], amount)
                total = add(total, amount)
        cost, cached, written, output, reasoning = parts
        return Bill(total, cost, cached, written, output, reasoning, self._fee)

    def _plain_bill(self, counts: tuple[int, int, int, int]) -> Bill:
        uncached, cached, output, reasoning = counts
        rates = self._at(uncached + cached)
        add, multiply = _EXACT.add, _EXACT.multiply
        parts = (
            multiply(rates[_UNCACHED_TEXT], uncached),
            multiply(rates[_CACHED_TEXT], cached) if cached else _ZERO,
            multiply(rates[_OUTPUT_TEXT], output),
            multiply(rates[_REASONING_TEXT], reasoning) if reasoning else _ZERO,
        )
        total = add(add(parts[0], parts[1]), add(parts[2], parts[3]))
        if self._fee:
            total = add(total, self._fee)
        return Bill(total, parts[0], parts[1], _ZERO, parts[2], parts[3], self._fee)

    def _at(self, input_tokens: int) -> tuple[Decimal, ...]:
        """What each kind of token costs in a call with that many input tokens."""
        for start, rates in self._steps[:-1]:
            if input_tokens > start:
                return rates
        return self._steps[-1][1]


def price_at(price: Price, input_tokens: int) -> Decimal:
    """The price for a call with that many input tokens."""
    base, tiers = price
    for start, amount in reversed(tiers):
        if input_tokens > start:
            return amount
    return base


def _rates(prices: Mapping[str, Price], start: int) -> tuple[Decimal, ...]:
    """USD per token of each kind, for calls with more than `start` input tokens; 0 where the table has no price."""
    return tuple(
        next(
            (
                _EXACT.divide(price_at(prices[name], start + 1), TOKENS_PER_PRICE)
                for name in kind.price_names
                if name in prices
            ),
            _ZERO,
        )
        for kind in _KINDS
    )


def _plain(usage: Usage) -> tuple[int, int, int, int] | None:
    """Input, cached input, output and reasoning of a call about which nothing else is told; None if more is to be asked."""
    # By place: asking for each by its name takes twice as long.
    given, out, cached, written, hourly, cached_audio, reasoning, audio, spoken, image, drawn, _ = usage
    if written or hourly or cached_audio or audio or spoken or image or drawn:
        return None
    if type(given) is not int or type(out) is not int:
        return None
    if cached is None:
        cached = 0
    if reasoning is None:
        reasoning = 0
    if type(cached) is not int or type(reasoning) is not int:
        return None
    if 0 <= cached <= given <= _MAX_TOKENS and 0 <= reasoning <= out <= _MAX_TOKENS:
        return given - cached, cached, out - reasoning, reasoning
    return None


def _counts(usage: Usage) -> tuple[int, ...]:
    """Tokens of each kind, none of them counted twice.

    A part that was reported is billed even where it exceeds its total: some providers report an input that leaves out
    the cache, and who reports a part at all has counted it. So the rest is never less than 0, and nothing raises.
    """
    cached, written = _count(usage, "cache_read_tokens"), _count(usage, "cache_write_tokens")
    written_1h = _count(usage, "cache_write_1h_tokens")
    audio, image = _count(usage, "audio_input_tokens"), _count(usage, "image_input_tokens")
    rest = _count(usage, "input_tokens") - cached - max(written, written_1h) - audio - image
    # What is not reported, the sum may tell: tokens that are too many were cached and audio, or cached and images.
    cached_audio = (
        -rest if usage.cache_read_audio_tokens is None else _count(usage, "cache_read_audio_tokens")
    )
    cached_audio = max(min(cached_audio, cached, audio), 0)
    cached_image = max(min(-rest - cached_audio, cached - cached_audio, image), 0)
    reasoning = _count(usage, "reasoning_tokens")
    audio_out, image_out = _count(usage, "audio_output_tokens"), _count(usage, "image_output_tokens")
    return (
        max(rest + cached_audio + cached_image, 0),
        audio - cached_audio,
        image - cached_image,
        cached - cached_audio - cached_image,
        cached_audio,
        cached_image,
        max(written - written_1h, 0),
        written_1h,
        max(_count(usage, "output_tokens") - audio_out - image_out - reasoning, 0),
        audio_out,
        image_out,
        reasoning,
    )


def _count(usage: Usage, name: str) -> int:
    value = getattr(usage, name)
    if type(value) is not int or value <= 0:
        return 0
    return min(value, _MAX_TOKENS)
