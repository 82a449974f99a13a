"""Makes loads of adapters and ControlNets take longer in every process of a server under test.

Python imports this module at the start of each process that has this folder on its ``PYTHONPATH``.  It wraps the
server's loading functions when their modules are imported: each call sleeps once it has loaded, for as many seconds
as its environment variable says.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

# The function to slow down by its module, and the variable that names the seconds.
SLOWED = {
    "lego_serve.models.lora.checkpoint": ("read_adapter_file", "LOADGEN_ADAPTER_LOAD_S"),
    "lego_serve.models.controlnet.loading": ("load_controlnet", "LOADGEN_CONTROLNET_LOAD_S"),
}


def slow(load: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return a function that does what ``load`` does and takes so many seconds longer; an error comes at once."""

    @functools.wraps(load)
    def slowed(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        time.sleep(seconds)
        return loaded

    return slowed


class SlowStorageFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of ``slowed`` and wraps their functions right after their import."""

    def __init__(self, slowed: dict[str, tuple[str, float]]) -> None:
        self._slowed = dict(slowed)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a loader that wraps its function; None for every other module."""
        if name not in self._slowed:
            return None
        function, seconds = self._slowed.pop(name)  # so that the search below does not come here again
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"no module {name} whose {function} is to be slowed down", name=name)
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            setattr(module, function, slow(getattr(module, function), seconds))

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


def install(environment: Mapping[str, str]) -> None:
    """Wrap the functions whose seconds the environment names."""
    slowed = {
        module: (function, float(environment[variable]))
        for module, (function, variable) in SLOWED.items()
        if variable in environment
    }
    if slowed:
        sys.meta_path.insert(0, SlowStorageFinder(slowed))


install(os.environ)
