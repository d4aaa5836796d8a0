"""The border of a process: whatever comes in is harmless, and only what may go out does."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import DefaultGetter

from aiobs_core import Kind, Operation, Settings, _process, keep, semconv, suppressed, using_attributes
from aiobs_core._recorder import Recorder
from aiobs_core.adapter import current_request_id
from aiobs_core.propagation import RequestPropagator, continued, extract, inject, install

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
CHAIN = Operation(kind=Kind.WORKFLOW, name="answer")


@pytest.fixture
def recorder(monkeypatch):
    """The recorder of the process, without exporters; settings by argument."""
    made = []

    def make(**settings):
        loaded = Settings.load({}, {"console": "off", "store": "off", **settings}, strict=True)
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        memory = InMemorySpanExporter()
        one = Recorder(loaded, exporters=[memory])
        one.memory = memory
        monkeypatch.setattr(_process, "_recorder", one)
        made.append(one)
        return one

    token = context.attach(Context())
    yield make
    context.detach(token)
    for one in made:
        one.shutdown(5)


@pytest.fixture
def installed():
    install()


def sent():
    headers = {}
    inject(headers)
    return headers


def entries(headers):
    return dict(baggage.get_all(extract(headers)))


# --- out ------------------------------------------------------------------------------------------------------------


def test_nothing_leaves_outside_of_a_trace(recorder):
    recorder()
    assert sent() == {}


def test_the_identity_of_a_request_leaves_with_sessions_and_tenants_hashed(recorder):
    one = recorder(hash_key="correct horse battery")
    with (
        using_attributes(request_id="r-17", session_id="s-4", tenant_id="acme", user_id="u-1", tags=["x"]),
        one.span(CHAIN) as span,
    ):
        headers = sent()
    assert f"{span.trace.trace_id:032x}" in headers["traceparent"]
    found = entries(headers)
    assert found.pop(semconv.REQUEST_ID) == "r-17"
    assert set(found) == {semconv.SESSION_ID, semconv.TENANT_ID}
    for secret in ("s-4", "acme", "u-1"):
        assert secret not in headers["baggage"]


def test_without_an_id_of_the_application_the_trace_is_the_request(recorder):
    with recorder().span(CHAIN) as span:
        assert entries(sent()) == {semconv.REQUEST_ID: f"{span.trace.trace_id:032x}"}


def test_a_run_that_has_ended_is_no_request(recorder):
    one = recorder(sampling={"rules": [{"keep": 0.0}]})
    with one.span(CHAIN):
        keep()
    assert sent() == {}
    with one.span(CHAIN) as outer:
        with one.span(CHAIN):
            pass
        assert entries(sent()) == {semconv.REQUEST_ID: f"{outer.trace.trace_id:032x}"}


def test_foreign_baggage_is_not_passed_on_unless_its_key_is_listed(recorder):
    came = {"traceparent": PARENT, "baggage": "shop.cart=17,route=eu,ai.agent.request.id=r-1"}
    recorder()
    with continued(came):
        assert entries(sent()) == {semconv.REQUEST_ID: "r-1"}
        assert baggage.get_baggage("shop.cart") == "17"  # the application itself may use it
    recorder(baggage_keys=["route"])
    with continued(came):
        assert entries(sent()) == {semconv.REQUEST_ID: "r-1", "route": "eu"}


def test_baggage_of_the_application_itself_travels_as_before(recorder):
    recorder()
    token = context.attach(baggage.set_baggage("shop.cart", "17"))
    assert entries(sent()) == {"shop.cart": "17"}
    context.detach(token)


@pytest.mark.usefixtures("installed")
def test_instrumentations_of_others_take_the_identity_along(recorder):
    one = recorder()
    install()
    assert isinstance(propagate.get_global_textmap(), RequestPropagator)
    with using_attributes(request_id="r-17"), one.span(CHAIN):
        headers = {}
        propagate.inject(headers)
    assert "ai.agent.request.id=r-17" in headers["baggage"]


# --- in -------------------------------------------------------------------------------------------------------------


def test_runs_go_on_with_the_trace_and_the_request_that_came(recorder):
    one = recorder()
    came = {"traceparent": PARENT, "baggage": "ai.agent.request.id=r-17,ai.agent.tenant.id=t-1"}
    with continued(came), one.span(CHAIN):
        pass
    assert one.flush(5)
    (span,) = one.memory.get_finished_spans()
    assert span.context.trace_id == TRACE_ID
    assert span.attributes[semconv.REQUEST_ID] == "r-17"


def test_an_adapter_can_ask_what_the_running_code_belongs_to(recorder):
    one = recorder()
    assert current_request_id() is None
    with continued({"traceparent": PARENT, "baggage": "ai.agent.request.id=r-17"}):
        assert current_request_id() == "r-17"
        between = trace.get_tracer("theirs").start_as_current_span
        with one.span(CHAIN), using_attributes(request_id="ours"), between("between"):
            assert current_request_id() == "ours"
        assert current_request_id() == "r-17"


def test_what_holds_around_the_block_holds_inside(recorder):
    one = recorder()
    came = {"traceparent": PARENT, "baggage": "ai.agent.request.id=r-17"}
    with suppressed(), continued(came):
        assert one.start("x", CHAIN) is None
    with (
        using_attributes(privacy_policy="strict", request_id="mine"),
        continued(came),
        one.span(CHAIN) as inside,
    ):
        assert (inside.request.request_id, inside.request.privacy_policy) == ("r-17", "strict")
    with one.span(CHAIN) as outer, continued({}), one.span(CHAIN) as inner:
        assert inner.parent is outer  # nothing came, so it goes on here
    token = context.attach(baggage.set_baggage("shop.cart", "17"))
    with continued(came):
        assert baggage.get_baggage("shop.cart") is None
    context.detach(token)


def test_a_hash_that_came_is_not_hashed_again(recorder):
    hashed = "0a1b2c:" + "ab" * 16
    one = recorder(hash_key="correct horse battery")
    with continued({"baggage": f"ai.agent.tenant.id={hashed}"}), one.span(CHAIN):
        assert entries(sent())[semconv.TENANT_ID] == hashed
    assert one.flush(5)
    assert one.memory.get_finished_spans()[0].attributes[semconv.TENANT_ID] == hashed


def test_what_the_application_says_wins_over_what_came(recorder):
    one = recorder()
    with (
        continued({"baggage": "ai.agent.request.id=theirs,ai.agent.session.id=s"}),
        using_attributes(request_id="ours"),
        one.span(CHAIN) as span,
    ):
        pass
    assert (span.request.request_id, span.request.session_id) == ("ours", "s")


@pytest.mark.parametrize("trusts", [False, True])
def test_a_stranger_forces_no_trace_to_be_kept(recorder, trusts):
    one = recorder(sampling={"rules": [{"keep": 0.0}]}, trust_baggage=trusts)
    with continued({"traceparent": PARENT, "baggage": "ai.agent.sampling.keep=true"}), one.span(CHAIN):
        pass
    assert one.flush(5)
    assert bool(one.memory.get_finished_spans()) is trusts


def test_keep_is_told_to_those_who_are_called(recorder):
    one = recorder(sampling={"rules": [{"keep": 0.0}]})
    with one.span(CHAIN):
        keep()
        assert entries(sent())[semconv.SAMPLING_KEEP] == "true"


def test_a_stranger_chooses_no_privacy_policy(recorder):
    one = recorder()
    with continued({"baggage": "ai.agent.privacy.policy=off,privacy_policy=off"}), one.span(CHAIN) as span:
        pass
    assert span.request is None or span.request.privacy_policy is None


@pytest.mark.parametrize(
    "parent",
    [
        "", "00", PARENT.replace("00-", "ff-", 1), PARENT[:-3], PARENT + "-more", PARENT.upper(),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01", [PARENT, PARENT], [PARENT, "x"], b"\xff\xfe", "\n" + PARENT, PARENT * 10_000,
    ],
)  # fmt: skip
def test_a_malformed_or_doubled_parent_is_none(recorder, parent):
    recorder()
    assert not trace.get_current_span(extract({"traceparent": parent})).get_span_context().is_valid


@pytest.mark.parametrize(
    "carrier",
    [
        {"traceparent": PARENT.encode()}, {b"Traceparent": PARENT.encode()}, {"TraceParent": [PARENT]},
        [("traceparent", PARENT.encode())], [(b"other", b"x"), (b"traceparent", PARENT.encode())],
    ],
)  # fmt: skip
def test_headers_are_read_in_all_shapes(recorder, carrier):
    recorder()
    assert trace.get_current_span(extract(carrier)).get_span_context().trace_id == TRACE_ID


def test_an_oversized_state_or_baggage_is_none_and_costs_nothing(recorder, caplog):
    recorder()
    came = {"traceparent": PARENT, "tracestate": "a=b," * 100_000, "baggage": "k=v," * 100_000}
    with caplog.at_level(logging.DEBUG):
        found = extract(came)
    span_context = trace.get_current_span(found).get_span_context()
    assert (span_context.trace_id, len(span_context.trace_state), dict(baggage.get_all(found))) == (
        TRACE_ID,
        0,
        {},
    )
    assert not caplog.records


@given(st.text(st.characters(codec="ascii"), max_size=120))
def test_a_stranger_writes_nothing_into_the_log_of_the_application(said):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("opentelemetry").addHandler(handler)
    try:
        for name in ("traceparent", "tracestate", "baggage"):
            extract({"traceparent": PARENT, name: said})
    finally:
        logging.getLogger("opentelemetry").removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def test_a_state_keeps_its_well_formed_members(recorder):
    recorder()
    came = extract({"traceparent": PARENT, "tracestate": "ot=th:8, Bad=x,a=1=2,tenant@vendor=b,=c,empty="})
    state = trace.get_current_span(came).get_span_context().trace_state
    assert dict(state.items()) == {"ot": "th:8", "tenant@vendor": "b"}


class Raises(DefaultGetter):
    def get(self, carrier, key):
        raise RuntimeError("poison")


def test_a_carrier_that_cannot_be_read_brings_nothing(recorder):
    recorder()
    assert extract({}, getter=Raises()) == {}
    with continued(None):  # a message without headers
        pass


HEADER = (
    st.text(max_size=300) | st.binary(max_size=300) | st.lists(st.text(max_size=50) | st.none(), max_size=3)
)


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate", "baggage"]), HEADER))
def test_nothing_that_comes_raises_or_grows(came):
    found = extract(came)
    assert len(baggage.get_all(found)) <= 64
    with continued(came):
        headers = sent()
    assert all(len(value) < 9_000 and value.isprintable() for value in headers.values())


KEYS = st.sampled_from(
    [semconv.REQUEST_ID, semconv.SESSION_ID, semconv.TENANT_ID, semconv.SAMPLING_KEEP, "other"]
)


@given(st.lists(st.tuples(KEYS, st.text(st.characters(codec="ascii"), max_size=200)), max_size=80))
def test_no_header_can_be_injected_by_what_came(members):
    came = {"traceparent": PARENT, "baggage": ",".join(f"{key}={value}" for key, value in members)}
    with continued(came):
        headers = sent()
    assert set(headers) <= {"traceparent", "tracestate", "baggage"}
    assert all("\r" not in value and "\n" not in value for value in headers.values())
    assert "other" not in headers.get("baggage", "").split("=")[0::2]
