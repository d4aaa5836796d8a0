"""Runs that a framework does not report: methods of its classes, each call of which is a run.

For integrations, and opt-in for their users: objects or classes of the application are changed.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from aiobs_core._operation import Operation
from aiobs_core._process import get_recorder

if TYPE_CHECKING:
    from aiobs_core._span import OutcomeSource

T = TypeVar("T")
_Function = Callable[..., Any]
_PLAIN: Final = "__aiobs_plain__"  # with two underscores: pydantic takes one for a private field


class Method(NamedTuple):
    """How the calls of a method are recorded.

    Attributes:
        read: Reads one call in the worker: (instance, method's name, arguments, keyword arguments) → operation. Lists
            among the arguments are copies.
        outcome: What came back, or a function that says so in the worker; called in the caller's thread.
        is_part: Whether the run around the call stands for it already; the call is not recorded then.
    """

    read: Callable[[Any, str, tuple[Any, ...], Mapping[str, Any]], Operation]
    outcome: Callable[[Any], OutcomeSource | None]
    is_part: Callable[[], bool] | None = None


class ObservedMethods:
    """Methods of a base class, recorded for single objects or for all classes that derive from it.

    Of calls of one object inside one another, such as `embed_query` that is made of `embed_documents`, the outer one is
    a run. Safe to use from any thread; what the application passes, gets and catches is the same as without.

    Args:
        base: The class that the framework's users derive from.
        scope: Instrumentation scope of the spans.
        methods: Name → how it is recorded; so is its async twin, with an "a" before the name.
    """

    def __init__(self, base: type, scope: str, methods: Mapping[str, Method]) -> None:
        self._base = base
        self._scope = scope
        self._methods = {**methods, **{f"a{name}": method for name, method in methods.items()}}
        self._lock = threading.Lock()
        self._is_on = False
        self._replaced: dict[tuple[type, str], tuple[Any, Any]] = {}  # class, name → original, replacement

    def observe(self, instance: T) -> T:
        """Record the calls of this object, which is returned; what it is pickled to is not observed."""
        cls: Any = type(instance)
        if not hasattr(cls, _PLAIN):
            body: dict[str, Any] = {name: self._recorded(each, name) for name, each in self._functions(cls)}
            body |= {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
            body |= {"__doc__": cls.__doc__, "__reduce_ex__": _reduce, _PLAIN: cls}
            # Past `__setattr__` of models that know their fields only.
            object.__setattr__(instance, "__class__", type(cls)(cls.__name__, (cls,), body))
        return instance

    def install(self) -> None:
        """Record the calls of all objects, also of classes that are made later; a second call changes nothing."""
        with self._lock:
            if self._is_on:
                return
            self._is_on = True
            for cls in _family(self._base):
                self._replace_methods(cls)
            hook = self._for_new_classes(vars(self._base).get("__init_subclass__"))
            self._replace(self._base, "__init_subclass__", hook)

    def uninstall(self) -> None:
        """Put everything back; where somebody has wrapped it since, it stays, and records nothing any more."""
        with self._lock:
            self._is_on = False
            while self._replaced:
                (cls, name), (original, replacement) = self._replaced.popitem()
                if vars(cls).get(name) is not replacement:
                    continue
                if original is None:
                    delattr(cls, name)
                else:
                    setattr(cls, name, original)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _functions(self, cls: type) -> Iterator[tuple[str, _Function]]:
        for name in self._methods:
            function = inspect.getattr_static(cls, name, None)
            if inspect.isfunction(function):
                yield name, function

    def _replace_methods(self, cls: type) -> None:
        for name, function in list(self._functions(cls)):
            if name in vars(cls) and (cls, name) not in self._replaced:
                self._replace(cls, name, self._recorded(function, name, is_on=lambda: self._is_on))

    def _replace(self, cls: type, name: str, replacement: object) -> None:
        self._replaced[cls, name] = (vars(cls).get(name), replacement)
        setattr(cls, name, replacement)

    def _recorded(self, function: _Function, name: str, *, is_on: Callable[[], bool] = lambda: True) -> Any:
        scope, method = self._scope, self._methods[name]

        def start(instance: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> object:
            key = object()
            if is_on() and not (method.is_part is not None and method.is_part()):
                taken = tuple(list(each) if type(each) is list else each for each in arguments)
                read = functools.partial(method.read, instance, name, taken, keywords)
                get_recorder().start(key, read, scope=scope, subject=instance)
            return key

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(self: Any, *arguments: Any, **keywords: Any) -> Any:
                key = start(self, arguments, keywords)
                try:
                    result = await function(self, *arguments, **keywords)
                except BaseException as error:
                    get_recorder().fail(key, error)
                    raise
                get_recorder().end(key, _outcome(method, result))
                return result

            return coroutine

        @functools.wraps(function)
        def recorded(self: Any, *arguments: Any, **keywords: Any) -> Any:
            key = start(self, arguments, keywords)
            try:
                result = function(self, *arguments, **keywords)
            except BaseException as error:
                get_recorder().fail(key, error)
                raise
            get_recorder().end(key, _outcome(method, result))
            return result

        return recorded

    def _for_new_classes(self, original: Any) -> Any:
        base: Any = self._base

        def init_subclass(cls: Any, /, **keywords: Any) -> None:
            if original is None:
                super(base, cls).__init_subclass__(**keywords)
            else:
                original.__get__(None, cls)(**keywords)
            with self._lock:
                if self._is_on and _PLAIN not in vars(cls):
                    self._replace_methods(cls)

        return classmethod(init_subclass)


def _outcome(method: Method, result: Any) -> OutcomeSource | None:
    try:
        return method.outcome(result)
    except Exception:  # noqa: BLE001 (raised again in the worker, which marks the span, counts and warns)
        return functools.partial(method.outcome, result)  # type: ignore[return-value]  # it raises


def _family(cls: type) -> Iterator[type]:
    yield cls
    below: type
    for below in cls.__subclasses__():
        if _PLAIN not in vars(below):
            yield from _family(below)


def _reduce(instance: Any, protocol: Any) -> Any:
    """As the plain class reduces it: a class that is made at run time cannot be found again."""
    plain = getattr(type(instance), _PLAIN)
    reduced = plain.__reduce_ex__(instance, protocol)
    if isinstance(reduced, str):
        return reduced
    function, arguments, *more = reduced
    if (
        getattr(function, "__name__", "") == "__newobj__"
    ):  # of `copyreg`; it insists on the class of the instance
        return (plain.__new__, (plain, *arguments[1:]), *more)
    return (function, tuple(plain if each is type(instance) else each for each in arguments), *more)
