"""The Prometheus page: snapshots as text, in the classic format and in OpenMetrics, which has exemplars.

Written here and not by `prometheus_client`, which takes ten times as long for a page of 20,000 samples and does not know
that two sets of attributes can be one set of labels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from aiobs_core.metrics.series import Attributes, Exemplar, FamilySnapshot, HistogramPoint, Point, merged
from aiobs_core.semconv.metrics import Metric

Read = Callable[[], Sequence[FamilySnapshot]]
"""Gives all series as they are now."""

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC: Final = "text/plain; version=0.0.4; charset=utf-8"

_MAX_VALUE: Final = 1024  # characters of a label's value; no name is that long, but an attack may be
_UNITS: Final = {"s": "seconds", "{USD}": "usd"}
# Of these, a newline has an escape. A surrogate is no UTF-8; the others, which Prometheus would take, act on the terminal
# of whoever prints a page, and are ends of lines to some readers.
_UNSAFE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SPECIAL: Final = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"\\\\]')
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


# --- what both formats, and the collector, say alike ------------------------------------------------------------


def label_value(value: str | int) -> str:
    """A value as the text of a label, not escaped yet; what no page can hold becomes U+FFFD."""
    text = value if type(value) is str else str(value)
    if len(text) > _MAX_VALUE:
        text = f"{text[: _MAX_VALUE - 1]}…"
    return _UNSAFE.sub("\ufffd", text) if _SPECIAL.search(text) else text


def labels_of(attributes: Attributes) -> dict[str, str]:
    """Labels of a series. To Prometheus, an empty label is one that is not there."""
    return {name.replace(".", "_"): label_value(value) for name, value in attributes if value != ""}


def exemplar_labels(exemplar: Exemplar) -> dict[str, str]:
    """The names under which Grafana looks for the trace."""
    return {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}


def unit_of(metric: Metric) -> str:
    """The unit, if the name ends in it: OpenMetrics allows no other."""
    unit = _UNITS.get(metric.unit, "")
    return unit if unit and metric.prometheus_name.endswith(f"_{unit}") else ""


def bound_text(bound: float) -> str:
    """A bucket's bound as all of Prometheus' clients write it: as Go does, and never without a point or an exponent."""
    text = repr(float(bound))
    digits = text.removesuffix(".0")
    if bound < 1e6 or not digits.isdecimal():
        return text
    fraction = digits[1:].rstrip("0")
    return f"{digits[0]}{'.' if fraction else ''}{fraction}e+{len(digits) - 1:02d}"


def distinct(family: FamilySnapshot) -> Iterator[tuple[dict[str, str], Point | HistogramPoint]]:
    """Labels and state of each series; those whose labels are the same are one, since a page may have none twice."""
    found: dict[tuple[tuple[str, str], ...], tuple[dict[str, str], Point | HistogramPoint]] = {}
    for point in family.points:
        labels = labels_of(point.attributes)
        key = tuple(labels.items())
        if key in found:
            _, before = found[key]
            alike = point._replace(attributes=before.attributes)
            one, other = FamilySnapshot(family.metric, [before]), FamilySnapshot(family.metric, [alike])
            point = merged([[one], [other]])[0].points[0]  # noqa: PLW2901 (the sum takes the place of both)
        found[key] = (labels, point)
    yield from found.values()


# --- text -------------------------------------------------------------------------------------------------------


def render(families: Iterable[FamilySnapshot], *, openmetrics: bool) -> bytes:
    """The page.

    Args:
        families: What it says.
        openmetrics: In that format, with exemplars; else in the classic one, which everyone reads.
    """
    lines: list[str] = []
    for family in families:
        if not family.points:
            continue
        lines.append(_header(family.metric, openmetrics=openmetrics))
        if family.metric.instrument == "histogram":
            _histogram(lines, family, openmetrics=openmetrics)
        else:
            _numbers(lines, family)
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode("utf-8")


def _header(metric: Metric, *, openmetrics: bool) -> str:
    name = metric.prometheus_name if openmetrics else metric.sample_name
    brief = metric.brief.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        brief = brief.replace('"', r"\"")
    unit = unit_of(metric)
    about_unit = f"# UNIT {name} {unit}\n" if unit and openmetrics else ""
    return f"# HELP {name} {brief}\n# TYPE {name} {metric.instrument}\n{about_unit}"


def _numbers(lines: list[str], family: FamilySnapshot) -> None:
    name = family.metric.sample_name
    for labels, point in distinct(family):
        assert isinstance(point, Point)
        text = _label_text(labels)
        lines.append(
            f"{name}{{{text}}} {_number(point.value)}\n" if text else f"{name} {_number(point.value)}\n"
        )


def _histogram(lines: list[str], family: FamilySnapshot, *, openmetrics: bool) -> None:
    name = family.metric.prometheus_name
    ends = [f'le="{bound}"}} ' for bound in (*map(bound_text, family.metric.bounds), "+Inf")]
    for labels, point in distinct(family):
        assert isinstance(point, HistogramPoint)
        text = _label_text(labels)
        start = f"{name}_bucket{{{text}," if text else f"{name}_bucket{{"
        exemplars = point.exemplars if openmetrics else {}
        total = 0
        for bucket, count in enumerate(point.counts):
            total += count
            if bucket in exemplars:
                lines.append(f"{start}{ends[bucket]}{total} # {_exemplar(exemplars[bucket])}\n")
            else:
                lines.append(f"{start}{ends[bucket]}{total}\n")
        braces = f"{{{text}}}" if text else ""
        lines.append(f"{name}_count{braces} {total}\n{name}_sum{braces} {_number(point.sum)}\n")


def _label_text(labels: Mapping[str, str]) -> str:
    return ",".join([
        f'{name}="{value.translate(_ESCAPES) if _SPECIAL.search(value) else value}"'
        for name, value in labels.items()
    ])  # fmt: skip


def _exemplar(exemplar: Exemplar) -> str:
    labels = _label_text(exemplar_labels(exemplar))
    return f"{{{labels}}} {_number(exemplar.value)} {exemplar.time_ns / 1e9:.3f}"


def _number(value: float) -> str:
    text = repr(value)
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)


# --- the answer to a request ------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a server sends; to HEAD without the body."""

    status: Literal[200, 405, 503]
    headers: list[tuple[str, str]]
    body: bytes


def answer(method: str, accept: str, accept_encoding: str, read: Read) -> Answer:
    """Answer a request for the page.

    Args:
        method: Of HTTP; GET or HEAD.
        accept: The header `Accept`, which chooses the format.
        accept_encoding: The header `Accept-Encoding`.
        read: What the page says.
    """
    if method not in {"GET", "HEAD"}:
        return Answer(405, [("Allow", "GET, HEAD"), ("Content-Length", "0")], b"")
    openmetrics = wants_openmetrics(accept)
    body = render(read(), openmetrics=openmetrics)
    headers = [("Content-Type", OPENMETRICS if openmetrics else CLASSIC), ("Vary", "Accept, Accept-Encoding")]
    if _weights(accept_encoding).get("gzip", 0) > 0:
        packer = zlib.compressobj(
            1, zlib.DEFLATED, 16 + zlib.MAX_WBITS
        )  # the fastest: a page is mostly repetition
        body = packer.compress(body) + packer.flush()
        headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(body))))
    return Answer(200, headers, body)


def wants_openmetrics(accept: str) -> bool:
    """Whether an `Accept` header prefers OpenMetrics; who does not name it gets the classic format."""
    weights = _weights(accept)
    return weights.get("application/openmetrics-text", 0) > 0 and (
        weights["application/openmetrics-text"] >= weights.get("text/plain", 0)
    )


def _weights(header: str) -> dict[str, float]:
    """The best weight of each thing that a header of HTTP lists."""
    found: dict[str, float] = {}
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        found[name] = max(found.get(name, 0.0), weight)
    return found
