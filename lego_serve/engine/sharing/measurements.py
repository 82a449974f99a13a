"""Keeps what was measured of models at their first load, so that one which comes back loads without measuring anew."""

from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Measurements:
    """Measured values by name, of one process; two models of a process have names of their own."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def once(self, name: str, measure: Callable[[], Value]) -> Value:
        """Return what was measured under this name, measuring it the first time."""
        if name not in self._values:
            self._values[name] = measure()
        value: Value = self._values[name]
        return value
