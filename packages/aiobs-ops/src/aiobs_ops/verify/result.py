"""What was found: one sentence for each check; as text, as JSON, and as JUnit reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal
from xml.etree import ElementTree as ET

Status = Literal["passed", "failed", "skipped"]
_SUITE: Final = "aiobs verify"
_NAME_WIDTH: Final = len("request_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        says: What was found; of one that was skipped, which option gives what it needs.
    """

    name: str
    status: Status
    says: str


def passed(name: str, says: str) -> Check:
    """It is as it should be."""
    return Check(name=name, status="passed", says=_plain(says))


def failed(name: str, says: str) -> Check:
    """It is not."""
    return Check(name=name, status="failed", says=_plain(says))


def skipped(name: str, says: str) -> Check:
    """There was nothing to look at."""
    return Check(name=name, status="skipped", says=_plain(says))


def _plain(text: str) -> str:
    """Without what acts on a terminal, or is no XML: names of services come from outside."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The checks of one canary; `str()` of it is a line for each.

    Attributes:
        target: Where callers enter.
        trace_id: Of the canary; `aiobs show` takes it.
        request_id: The same request in logs.
    """

    target: str
    trace_id: str
    request_id: str
    duration_s: float
    checks: Sequence[Check]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; what was skipped is none of them."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        lines = [f"{self.target}: trace {self.trace_id}, request {self.request_id}"]
        for check in self.checks:
            mark = "FAILED" if check.status == "failed" else check.status
            lines.append(f"{mark:<7}  {check.name:<{_NAME_WIDTH}}  {check.says}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Everything, as plain data."""
        return {**asdict(self), "passed": not self.failed}

    def to_junit(self) -> bytes:
        """A test suite with a case for each check, in the XML that continuous integration reads."""
        suite = ET.Element(
            "testsuite",
            name=_SUITE,
            tests=str(len(self.checks)),
            failures=str(len(self.failed)),
            errors="0",
            skipped=str(sum(check.status == "skipped" for check in self.checks)),
            time=f"{self.duration_s:.3f}",
        )
        for check in self.checks:
            case = ET.SubElement(suite, "testcase", classname="aiobs.verify", name=check.name)
            if check.status == "passed":
                ET.SubElement(case, "system-out").text = check.says
            else:
                kind = "failure" if check.status == "failed" else "skipped"
                ET.SubElement(case, kind, message=check.says)
        suites = ET.Element("testsuites", name=_SUITE)
        suites.append(suite)
        ET.indent(suites)
        written: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
        return written + b"\n"
