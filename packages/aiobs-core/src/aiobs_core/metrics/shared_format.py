"""The text of a file in which one process tells the others of a server what it has counted.

Lines of JSON: the first says what file it is and how many lines follow, each of the others is one metric. A file is
written once and then only replaced, so one with fewer lines was damaged by something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from aiobs_core.metrics.series import Attributes, Exemplar, FamilySnapshot, HistogramPoint, Point
from aiobs_core.semconv.metrics import Instrument, Metric

FORMAT: Final = 1
_INSTRUMENTS: Final = ("counter", "histogram", "gauge")


class Content(NamedTuple):
    """What a file says.

    Attributes:
        families: Metrics as their writer defines them, without the words that only people read.
        folded: Of the file that adds up the dead, the names of files that are in it.
    """

    families: Sequence[FamilySnapshot]
    folded: Sequence[str] = ()


def encode(content: Content) -> bytes:
    """A file's text."""
    header = {
        "aiobs": "metrics",
        "format": FORMAT,
        "lines": len(content.families),
        "folded": list(content.folded),
    }
    # Metric by metric, so that other threads get their turn in between.
    lines = [json.dumps(header), *map(_family_text, content.families), ""]
    return "\n".join(lines).encode("ascii")


def decode(text: bytes) -> Content:
    """What a file says.

    Raises:
        ValueError: If it is damaged, of another format, or no such file at all.
    """
    try:
        header, *lines = text.splitlines()
        about = json.loads(header)
        if about["aiobs"] != "metrics" or about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r} of {about['aiobs']!r}, known is {FORMAT}")
        if about["lines"] != len(lines) or not text.endswith(b"\n"):
            raise ValueError(f"{len(lines)} lines instead of {about['lines']}")
        return Content([_family(json.loads(line)) for line in lines], [str(name) for name in about["folded"]])
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# --- one metric -------------------------------------------------------------------------------------------------


def _family_text(family: FamilySnapshot) -> str:
    metric = family.metric
    described = {
        "name": metric.name,
        "instrument": metric.instrument,
        "unit": metric.unit,
        "bounds": metric.bounds,
        "points": [_point_row(point) for point in family.points],
    }
    return json.dumps(described, separators=(",", ":"))


def _point_row(point: Point | HistogramPoint) -> list[object]:
    attributes = dict(point.attributes)
    if isinstance(point, Point):
        return [attributes, point.value]
    exemplars = [[bucket, *exemplar] for bucket, exemplar in point.exemplars.items()]
    return [attributes, point.sum, point.counts, exemplars]


def _family(described: Mapping[str, Any]) -> FamilySnapshot:
    instrument = described["instrument"]
    if instrument not in _INSTRUMENTS:
        raise ValueError(f"instrument {instrument!r}")
    metric = Metric(
        name=_text(described["name"]),
        instrument=cast("Instrument", instrument),
        unit=_text(described["unit"]),
        brief="",
        attributes=(),
        bounds=tuple(map(_number, described["bounds"])),
    )
    if instrument == "histogram":
        size = len(metric.bounds) + 1
        return FamilySnapshot(metric, [_histogram_point(row, size) for row in described["points"]])
    return FamilySnapshot(metric, [_point(*row) for row in described["points"]])


def _point(attributes: object, value: object) -> Point:
    return Point(_attributes(attributes), _number(value))


def _histogram_point(row: Sequence[Any], size: int) -> HistogramPoint:
    attributes, total, counts, exemplars = row
    if len(counts) != size:
        raise ValueError(f"{len(counts)} buckets instead of {size}")
    return HistogramPoint(
        _attributes(attributes),
        tuple(map(_count, counts)),
        _number(total),
        {_count(bucket): _exemplar(rest) for bucket, *rest in exemplars},
    )


def _exemplar(row: Iterable[object]) -> Exemplar:
    value, time_ns, trace_id, span_id = row
    return Exemplar(_number(value), _count(time_ns), _count(trace_id), _count(span_id))


def _attributes(found: object) -> Attributes:
    if not isinstance(found, dict):
        raise TypeError("attributes are no object")
    return tuple((name, value if isinstance(value, str) else _count(value)) for name, value in found.items())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value


def _number(value: object) -> float:
    if type(value) is int or type(value) is float:
        return value
    raise TypeError(f"{type(value).__name__} instead of a number")


def _count(value: object) -> int:
    if type(value) is int:
        return value
    raise TypeError(f"{type(value).__name__} instead of a whole number")
