"""`quick_init`: frozen dataclasses that are cheap to make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


def quick_init(cls: type[T]) -> type[T]:
    """Give a frozen, slotted, keyword-only dataclass an `__init__` at a third of the cost.

    The one that `dataclasses` writes has to call `object.__setattr__` for each field, because the class forbids
    assignment: that was a sixth of all that observing a run costs. This one makes the new object an instance of a
    subclass that allows assignment, assigns, and turns it back, so that nobody else ever sees it open. A default
    factory is called once: what it makes is shared and has to be immutable.
    """
    # Both, since they share one slot of the type: with only one of them each assignment would go through Python code.
    plain = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    opened = type(cls.__name__, (cls,), {"__slots__": (), **plain})
    generated = cls.__init__
    names = [item.name for item in fields(cls)]  # type: ignore[arg-type]  # T is a dataclass
    defaults: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]  # as above
        if item.default_factory is not MISSING:
            defaults[item.name] = item.default_factory()
        elif item.default is not MISSING:
            defaults[item.name] = item.default
    source = f"def __init__(self, *, {', '.join(names)}):\n"
    source += f" if type(self) is not cls: return generated(self, {', '.join(f'{name}={name}' for name in names)})\n"
    source += " open_up(self, '__class__', opened)\n"
    source += "".join(f" self.{name} = {name}\n" for name in names)
    source += " self.__class__ = cls\n"
    namespace: dict[str, Any] = {
        "cls": cls,
        "opened": opened,
        "generated": generated,
        "open_up": object.__setattr__,
    }
    exec(source, namespace)  # noqa: S102 (field names only, as dataclasses itself does)
    init: Callable[..., None] = namespace["__init__"]
    init.__kwdefaults__ = defaults
    cls.__init__ = wraps(generated)(init)  # type: ignore[method-assign]
    return cls
