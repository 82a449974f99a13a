"""Routing state shared by a process's routers and callers.

Ray Serve hands a router's module to each process by value: what stands in it is there once more in every process that
routes, apart from what others import.  So nothing that is shared may stand in ``router.py``, and that module must name
what is here through this one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random

from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.scheduling.routing import ReplicaChoice

_listeners: list[Callable[[frozenset[str]], None]] = []  # called from the router's thread
_watchers: list[Callable[[str, TemplateUse], None]] = []  # the same, of what replicas say of themselves
_models: dict[str, str] = {}  # by application, where that is not MODEL.COMPONENT
choice = ReplicaChoice()  # what this process's calls have in hand, and where templates are as far as it knows
rng = Random()


def on_departure(listener: Callable[[frozenset[str]], None]) -> None:
    """Call ``listener`` with replicas that left, from another thread."""
    _listeners.append(listener)


def on_template_use(watcher: Callable[[str, TemplateUse], None]) -> None:
    """Call ``watcher`` with a model's template use, from another thread."""
    _watchers.append(watcher)


def name_models(models: Mapping[str, str]) -> None:
    """Tell watchers of these applications by their models."""
    _models.update(models)


def leave(replica: str) -> None:
    """Send a replica that is being drained no more calls while there is another."""
    choice.draining.add(replica)


def left(replicas: Collection[str]) -> None:
    """Replicas are gone."""
    choice.forget(replicas)
    for listener in _listeners:
        listener(frozenset(replicas))


def record_stats(app: str, stats: Iterable[Mapping[str, Mapping[str, int]]]) -> None:
    """Record what the replicas of an application say of themselves."""
    uses = [TemplateUse(**each["template_use"]) for each in stats if "template_use" in each]
    if uses:
        for watcher in _watchers:
            watcher(_models.get(app, app.rpartition(".")[0]), sum(uses, TemplateUse()))
