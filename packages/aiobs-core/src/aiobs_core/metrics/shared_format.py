"""The text of a file in which one process tells the others of a server what it has counted.

Lines of JSON: the first says what file it is and has a hash of the others, each of which is one metric. So a file is
either as aiobs wrote it, or damaged; and whoever knows its first line knows all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiobs_core.metrics.series import Attributes, Exemplar, FamilySnapshot, HistogramPoint, Point
from aiobs_core.semconv.metrics import Metric

FORMAT: Final = 1


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
    # Metric by metric, so that other threads get their turn in between.
    lines = b"".join([_family_text(family) for family in content.families])
    header = {
        "aiobs": "metrics",
        "format": FORMAT,
        "folded": list(content.folded),
        "hash": hashlib.blake2b(lines, digest_size=16).hexdigest(),
    }
    return f"{json.dumps(header)}\n".encode("ascii") + lines


def decode(text: bytes) -> Content:
    """What a file says.

    Raises:
        ValueError: If it is damaged, of another format, or no such file at all.
    """
    try:
        header, _, lines = text.partition(b"\n")
        about = json.loads(header)
        if about["aiobs"] != "metrics" or about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r} of {about['aiobs']!r}, known is {FORMAT}")
        if about["hash"] != hashlib.blake2b(lines, digest_size=16).hexdigest():
            raise ValueError("it is damaged")
        families = [_family(json.loads(line)) for line in lines.splitlines()]
        return Content(families, [str(name) for name in about["folded"]])
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# --- one metric -------------------------------------------------------------------------------------------------


def _family_text(family: FamilySnapshot) -> bytes:
    metric = family.metric
    described = {
        "name": metric.name,
        "instrument": metric.instrument,
        "unit": metric.unit,
        "bounds": metric.bounds,
        "points": [_point_row(point) for point in family.points],
    }
    return f"{json.dumps(described, separators=(',', ':'))}\n".encode("ascii")


def _point_row(point: Point | HistogramPoint) -> list[object]:
    attributes = dict(point.attributes)
    if isinstance(point, Point):
        return [attributes, point.value]
    exemplars = [[bucket, *exemplar] for bucket, exemplar in point.exemplars.items()]
    return [attributes, point.sum, point.counts, exemplars]


def _family(described: Mapping[str, Any]) -> FamilySnapshot:
    metric = Metric(
        name=described["name"],
        instrument=described["instrument"],
        unit=described["unit"],
        brief="",
        attributes=(),
        bounds=tuple(described["bounds"]),
    )
    read = _histogram_point if metric.instrument == "histogram" else _point
    return FamilySnapshot(metric, [read(*row) for row in described["points"]])


def _point(attributes: Mapping[str, str | int], value: float) -> Point:
    return Point(tuple(attributes.items()), value)


def _histogram_point(
    attributes: Mapping[str, str | int], total: float, counts: Sequence[int], exemplars: Sequence[Any]
) -> HistogramPoint:
    named: Attributes = tuple(attributes.items())
    return HistogramPoint(
        named, tuple(counts), total, {bucket: Exemplar(*rest) for bucket, *rest in exemplars}
    )
