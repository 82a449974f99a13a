"""What one process knows of replicas, for its routers and for whoever makes calls.

Ray Serve hands a router's module to each process by value: what stands in it is there once more in every process that
routes, apart from what others import.  So nothing that is shared may stand in ``router.py``, and that module must name
what is here through this one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.scheduling.routing import Outstanding, Residency

_listeners: list[Callable[[frozenset[str]], None]] = []  # called from the router's thread
_watchers: list[Callable[[str, TemplateUse], None]] = []  # the same, of what replicas say of themselves
outstanding = Outstanding()  # what this process's calls have in hand
residency = Residency()  # where templates are, as this process knows
draining: set[str] = set()  # replicas that turned a call away and are not gone yet


def on_departure(listener: Callable[[frozenset[str]], None]) -> None:
    """Have ids of replicas that are no longer to be used told to a function, from another thread."""
    _listeners.append(listener)


def on_template_use(watcher: Callable[[str, TemplateUse], None]) -> None:
    """Have what a model's replicas keep of templates told to a function, from another thread, when it changes."""
    _watchers.append(watcher)


def leave(replica: str) -> None:
    """Send a replica that is being drained no more calls while there is another."""
    draining.add(replica)


def left(replicas: Collection[str]) -> None:
    """Replicas are gone."""
    draining.difference_update(replicas)
    for listener in _listeners:
        listener(frozenset(replicas))


def said(app: str, stats: Iterable[Mapping[str, Mapping[str, int]]]) -> None:
    """The replicas of an application say these things of themselves."""
    uses = [TemplateUse(**each["template_use"]) for each in stats if "template_use" in each]
    if uses:
        for watcher in _watchers:
            watcher(app.rpartition(".")[0], sum(uses, TemplateUse()))
