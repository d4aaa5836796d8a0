"""Runs that a framework does not report: methods of its classes, each call of which is a run.

For integrations, and opt-in for their users: methods of the application's classes are wrapped.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet, ref

from aiobs_core._operation import Operation
from aiobs_core._process import get_recorder
from aiobs_core.adapter import outcome_of

if TYPE_CHECKING:
    from aiobs_core._span import OutcomeSource

T = TypeVar("T")
_Function = Callable[..., Any]


class Call(NamedTuple):
    """One call of a method, as it was made: what the application may change afterwards is copied.

    Attributes:
        instance: The object.
        fields: What it held.
        method: Name of the method.
        arguments: Positional arguments; lists are copies.
        keywords: Keyword arguments; lists are copies.
    """

    instance: Any
    fields: Mapping[str, Any]
    method: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class Method(NamedTuple):
    """How the calls of a method are recorded.

    Attributes:
        read: Reads one call in the worker.
        outcome: What came back, or a function that says so in the worker; called in the caller's thread.
        is_part: Whether the run around the call stands for it already; the call is not recorded then.
    """

    read: Callable[[Call], Operation]
    outcome: Callable[[Any], OutcomeSource | None]
    is_part: Callable[[], bool] | None = None


class ObservedMethods:
    """Methods of a base class, recorded for single objects or for all objects of the classes that derive from it.

    Of calls of one object inside one another, such as `embed_query` that is made of `embed_documents`, the outer one is
    a run. Objects and what the application passes, gets and catches stay as they are. Safe to use from any thread.

    Args:
        base: The class that the framework's users derive from.
        scope: Instrumentation scope of the spans.
        methods: Name → how it is recorded; so is its async twin, with an "a" before the name. Only plain functions of a
            class are seen: no static methods, and nothing that an object has of its own.
    """

    def __init__(self, base: type, scope: str, methods: Mapping[str, Method]) -> None:
        self._base: Any = base
        self._scope = scope
        self._methods = {**methods, **{f"a{name}": method for name, method in methods.items()}}
        self._lock = threading.RLock()  # an object may be collected while it is held
        self._is_on = False
        self._hook: Any = None
        self._observed: dict[int, object] = {}  # id → weak reference, or the object where there can be none
        self._wrappers: WeakSet[_Function] = WeakSet()

    def observe(self, instance: T) -> T:
        """Record the calls of this object, which is returned; its copies are other objects, and not observed."""
        key = id(instance)
        try:
            kept: object = ref(instance, lambda _: self._observed.pop(key, None))
        except TypeError:
            kept = instance
        with self._lock:
            self._observed[key] = kept
            for cls in type(instance).__mro__:
                if self._base in cls.__mro__:
                    self._wrap_methods(cls)
        return instance

    def install(self) -> None:
        """Record the calls of all objects, also of classes that are made later; a second call changes nothing."""
        with self._lock:
            if self._is_on:
                return
            self._is_on = True
            for cls in _family(self._base):
                self._wrap_methods(cls)
            self._hook = self._for_new_classes(vars(self._base).get("__init_subclass__"))
            self._base.__init_subclass__ = self._hook

    def uninstall(self) -> None:
        """Put everything back; where somebody has wrapped it since, it stays, and records nothing any more.

        Objects that were given to `observe` are recorded on.
        """
        with self._lock:
            if not self._is_on:
                return
            self._is_on = False
            hook, self._hook = self._hook, None
            if vars(self._base).get("__init_subclass__") is hook:
                self._restore(self._base, "__init_subclass__", hook.original)
            if not self._observed:
                for cls in _family(self._base):
                    for name, function in list(self._functions(cls)):
                        if self._is_ours(function):
                            self._restore(cls, name, function.__wrapped__)  # type: ignore[attr-defined]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _functions(self, cls: type) -> Iterator[tuple[str, _Function]]:
        for name in self._methods:
            function = vars(cls).get(name)
            if inspect.isfunction(function):
                yield name, function

    def _is_ours(self, function: _Function) -> bool:
        # Another instrumentation's proxy of our wrapper (wrapt's) says that it is equal to it, and a function.
        return type(function) is FunctionType and function in self._wrappers

    def _wrap_methods(self, cls: type) -> None:
        try:
            for name, function in list(self._functions(cls)):
                if not self._is_ours(function):
                    wrapper = self._wrapper(function, name)
                    self._wrappers.add(wrapper)
                    setattr(cls, name, wrapper)
        except Exception as error:  # noqa: BLE001 (a metaclass of the application may refuse)
            get_recorder().health.problem(
                "methods.class",
                f"aiobs: the methods of a class could not be wrapped ({type(error).__name__}); its calls are not recorded.",
            )

    def _restore(self, cls: type, name: str, original: Any) -> None:
        if original is None:
            delattr(cls, name)
        else:
            setattr(cls, name, original)

    def _start(
        self, name: str, instance: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> object:
        """The key of the run that has begun; None where the call is not recorded."""
        if not self._is_on and id(instance) not in self._observed:
            return None
        recorder = get_recorder()
        method = self._methods[name]
        try:
            if not recorder.settings.is_on or (method.is_part is not None and method.is_part()):
                return None
            fields = dict(getattr(instance, "__dict__", ()))
            taken = tuple(_taken(each) for each in arguments)
            call = Call(instance, fields, name, taken, {key: _taken(each) for key, each in keywords.items()})
            key, read = object(), functools.partial(method.read, call)
            return key if recorder.start(key, read, scope=self._scope, subject=instance) is not None else None
        except Exception as error:  # noqa: BLE001 (the application's call must go on)
            recorder.health.problem(
                "methods.start", f"aiobs: a call could not be recorded ({type(error).__name__})."
            )
            return None

    def _wrapper(self, function: _Function, name: str) -> _Function:
        outcome = self._methods[name].outcome
        # Bound to the object as the class would do it: other instrumentations' wrappers look for the object there.
        bind = function.__get__

        async def finish(key: object, run: Callable[[], Awaitable[Any]]) -> Any:
            try:
                result = await run()
            except BaseException as error:
                get_recorder().fail(key, error)
                raise
            get_recorder().end(key, outcome_of(outcome, result))
            return result

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(instance: Any, /, *arguments: Any, **keywords: Any) -> Any:
                key = self._start(name, instance, arguments, keywords)
                run = functools.partial(bind(instance, type(instance)), *arguments, **keywords)
                return await (run() if key is None else finish(key, run))

            return coroutine

        @functools.wraps(function)
        def wrapper(instance: Any, /, *arguments: Any, **keywords: Any) -> Any:
            key = self._start(name, instance, arguments, keywords)
            method = bind(instance, type(instance))
            if key is None:
                return method(*arguments, **keywords)
            try:
                result = method(*arguments, **keywords)
            except BaseException as error:
                get_recorder().fail(key, error)
                raise
            if inspect.iscoroutine(result):  # a coroutine function under a decorator that hides it
                return finish(key, lambda: result)
            get_recorder().end(key, outcome_of(outcome, result))
            return result

        return wrapper

    def _for_new_classes(self, original: Any) -> Any:
        base: Any = self._base

        def init_subclass(cls: Any, /, **keywords: Any) -> None:
            if original is None:
                super(base, cls).__init_subclass__(**keywords)
            else:
                original.__get__(None, cls)(**keywords)
            with self._lock:
                if self._is_on:
                    self._wrap_methods(cls)

        hook: Any = classmethod(init_subclass)
        hook.original = original
        return hook


def _taken(argument: Any) -> Any:
    return argument.copy() if type(argument) is list else argument


def _family(cls: type) -> Iterator[type]:
    yield cls
    below: type
    for below in type.__subclasses__(cls):
        yield from _family(below)
