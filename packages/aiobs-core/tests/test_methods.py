"""Methods that are recorded for one object or for a family of classes, and are put back as they were."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import wrapt

from aiobs_core import Kind, Operation, Outcome, get_recorder, semconv
from aiobs_core.methods import Call, Method, ObservedMethods
from aiobs_testing import Telemetry


class Base:
    def work(self, items: list[str]) -> list[str]:
        return items

    async def awork(self, items: list[str]) -> list[str]:
        await asyncio.sleep(0)
        return self.work(items)


class Left(Base):
    def work(self, items: list[str]) -> list[str]:
        return super().work(items)


class Right(Base):
    def work(self, items: list[str]) -> list[str]:
        return super().work(items)


class Both(Left, Right):
    """Found by two ways."""


class Slotted(Base):
    __slots__ = ("name",)


class Static(Base):
    @staticmethod
    def work(items: list[str]) -> list[str]:  # type: ignore[override]
        return items


class Checked(Base):
    """Knows only its own fields, as models do."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def read(call: Call) -> Operation:
    items = call.keywords.get("items", call.arguments[0] if call.arguments else None)
    attributes = {semconv.EMBEDDING_TEXT_COUNT: len(items)}
    return Operation(
        kind=Kind.CHAIN, name=f"{type(call.instance).__name__}.{call.method}", attributes=attributes
    )


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    family = [Base, Left, Right, Both, Slotted, Static, Checked]
    before = [dict(vars(cls)) for cls in family]
    yield
    for cls, names_before in zip(family, before, strict=True):
        for name in ("work", "awork"):
            if name in names_before:
                setattr(cls, name, names_before[name])


def observed_methods(outcome: Callable[[Any], Any] = lambda _: None, **more: Any) -> ObservedMethods:
    return ObservedMethods(Base, "aiobs.toy", {"work": Method(read, outcome, **more)})


def names(telemetry: Telemetry) -> list[str]:
    return [span["name"].removeprefix("invoke_workflow ") for span in telemetry.spans()]


@pytest.mark.parametrize("cls", [Base, Left, Both, Slotted, Checked])
def test_one_object_is_recorded_and_others_are_not(telemetry: Telemetry, cls: type[Base]) -> None:
    items = ["a", "b"]
    made = observed_methods().observe(cls())
    assert made.work(items) is items
    assert made.work(items=items) is items
    assert cls().work(items) is items
    assert names(telemetry) == [f"{cls.__name__}.work"] * 2
    assert {span["attributes"][semconv.EMBEDDING_TEXT_COUNT] for span in telemetry.spans()} == {2}


async def test_an_async_method_that_is_made_of_the_sync_one_is_one_call(telemetry: Telemetry) -> None:
    await observed_methods().observe(Base()).awork(["a"])
    assert names(telemetry) == ["Base.awork"]


def test_what_is_changed_after_the_call_was_as_it_was(telemetry: Telemetry) -> None:
    items, made = ["a"], observed_methods().observe(Base())
    made.work(items)
    made.work(items=items)
    items.clear()
    assert [span["attributes"][semconv.EMBEDDING_TEXT_COUNT] for span in telemetry.spans()] == [1, 1]


async def test_a_coroutine_function_that_a_decorator_hides(telemetry: Telemetry) -> None:
    class Hidden(Base):
        def work(self, items: list[str]) -> Any:
            return self.later(items)

        async def later(self, items: list[str]) -> list[str]:
            await asyncio.sleep(0.01)
            raise LookupError

    with pytest.raises(LookupError):
        await observed_methods().observe(Hidden()).work(["a"])
    assert telemetry.spans()[0]["attributes"]["error.type"] == "LookupError"


def test_classes_that_refuse_are_left_alone(telemetry: Telemetry) -> None:
    class Refusing(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise TypeError(name)

    methods = observed_methods()
    frozen = Refusing("Frozen", (Base,), {"work": lambda self, items: items})
    methods.install()
    later = Refusing("Later", (Base,), {"work": lambda self, items: items})
    assert (frozen().work(["a"]), later().work(["a"])) == (["a"], ["a"])
    Base().work(["a"])
    methods.uninstall()
    assert names(telemetry) == ["Base.work"]
    assert sum("could not be wrapped" in warning for warning in telemetry.warnings) == 1
    telemetry.forgive_warnings()
    del frozen, later
    gc.collect()


def test_classes_that_nobody_keeps_are_collected(telemetry: Telemetry) -> None:
    methods = observed_methods()
    methods.install()
    made = weakref.WeakSet(type("Made", (Base,), {"work": lambda self, items: items}) for _ in range(20))
    gc.collect()
    methods.uninstall()
    assert len(made) == 0


def test_objects_that_are_observed_stay_so_when_the_rest_is_put_back(telemetry: Telemetry) -> None:
    methods = observed_methods()
    made = methods.observe(Left())
    methods.install()
    methods.uninstall()
    made.work(["a"])
    Left().work(["a"])
    assert names(telemetry) == ["Left.work"]


def test_all_classes_are_recorded_also_later_ones_and_put_back(telemetry: Telemetry) -> None:
    family = [Base, Left, Right, Both, Slotted, Static, Checked]
    before = [dict(vars(cls)) for cls in family]
    methods = observed_methods()
    methods.install()
    methods.install()
    Both().work(["a"])
    Static().work(["a"])  # no method of an object: left alone

    class Later(Base):
        def work(self, items: list[str]) -> list[str]:
            return [*items]

    Later().work(["a"])
    methods.uninstall()
    methods.uninstall()
    assert [dict(vars(cls)) for cls in family] == before
    Both().work(["a"])
    Later().work(["a"])
    assert names(telemetry) == ["Both.work", "Later.work"]


def test_a_hook_for_new_classes_of_the_base_itself_still_runs(telemetry: Telemetry) -> None:
    made: list[tuple[str, Any]] = []

    class Registry:
        def __init_subclass__(cls, *, tag: str = "", **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            made.append((cls.__name__, tag))

        def work(self, items: list[str]) -> list[str]:
            return items

    methods = ObservedMethods(Registry, "aiobs.toy", {"work": Method(read, lambda _: None)})
    methods.install()

    class Tagged(Registry, tag="t"):
        pass

    methods.uninstall()

    class Untagged(Registry):
        pass

    assert made == [("Tagged", "t"), ("Untagged", "")]


def test_an_error_is_the_same_object(telemetry: Telemetry) -> None:
    error = LookupError("canary-51c0")

    class Fails(Base):
        def work(self, items: list[str]) -> list[str]:
            raise error

    with pytest.raises(LookupError) as caught:
        observed_methods().observe(Fails()).work(["a"])
    assert caught.value is error
    assert telemetry.spans()[0]["attributes"]["error.type"] == "LookupError"
    assert "canary-51c0" not in telemetry.raw()[0].to_json()


def test_a_result_that_cannot_be_read_marks_the_span_only(telemetry: Telemetry) -> None:
    def broken(_: Any) -> Outcome:
        raise KeyError

    assert observed_methods(broken).observe(Base()).work(["a"]) == ["a"]
    assert telemetry.spans()[0]["attributes"][semconv.TELEMETRY_ERROR] == "KeyError"
    telemetry.forgive_warnings()


def test_a_call_that_is_part_of_the_run_around_it_is_not_recorded(telemetry: Telemetry) -> None:
    observed_methods(is_part=lambda: True).observe(Base()).work(["a"])
    assert telemetry.spans() == []


def test_classes_that_are_made_while_threads_switch_it_on_and_off(telemetry: Telemetry) -> None:
    methods, errors = observed_methods(), []
    before = dict(vars(Base))

    def switch() -> None:
        for _ in range(100):
            methods.install()
            methods.uninstall()

    def make() -> None:
        try:
            for _ in range(100):
                cls = type("Made", (Base,), {"work": lambda self, items: items})
                assert cls().work(["a"]) == ["a"]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=each) for each in (switch, switch, make, make)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    methods.uninstall()
    assert dict(vars(Base)) == before
    telemetry.spans()


# --- beside another instrumentation, whose wrappers are proxies that say they are what they wrap ----------------------------


@pytest.fixture
def theirs() -> Any:
    """Wraps `Base.work`, and keeps which object each call was of."""

    def wrap(seen: list[object]) -> Any:
        def passes_on(wrapped: Any, instance: Any, arguments: Any, keywords: Any) -> Any:
            seen.append(instance)
            return wrapped(*arguments, **keywords)

        wrapt.wrap_function_wrapper(Base, "work", passes_on)
        return vars(Base)["work"]

    return wrap


def test_what_was_wrapped_before_gets_its_object_and_is_put_back(telemetry: Telemetry, theirs: Any) -> None:
    seen: list[object] = []
    before, made, methods = theirs(seen), Base(), observed_methods()
    methods.install()
    made.work(["a"])
    methods.uninstall()
    assert vars(Base)["work"] is before
    assert seen == [made]
    assert names(telemetry) == ["Base.work"]


def test_what_was_wrapped_since_stays_and_a_call_is_one_span(telemetry: Telemetry, theirs: Any) -> None:
    seen: list[object] = []
    made, methods = Base(), observed_methods()
    methods.install()
    since = theirs(seen)
    made.work(["recorded"])
    methods.uninstall()
    assert vars(Base)["work"] is since
    made.work(["not recorded"])
    methods.install()
    made.work(["recorded"])
    methods.uninstall()
    assert vars(Base)["work"] is since
    assert seen == [made] * 3
    assert names(telemetry) == ["Base.work"] * 2


async def test_a_call_with_wrong_arguments_ends(telemetry: Telemetry) -> None:
    made = observed_methods().observe(Base())
    with pytest.raises(TypeError):
        made.work(["a"], "more")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await made.awork(["a"], "more")  # type: ignore[call-arg]
    assert [span["attributes"]["error.type"] for span in telemetry.spans()] == ["TypeError"] * 2


def test_switched_off_nothing_is_read(telemetry: Telemetry) -> None:
    recorder = get_recorder()
    made = observed_methods(is_part=pytest.fail).observe(Base())
    recorder.apply(replace(recorder.settings, enabled=False))
    try:
        assert made.work(["a"]) == ["a"]
    finally:
        recorder.apply(replace(recorder.settings, enabled=True))
    assert telemetry.spans() == []
