"""Routing state shared by a process's routers and callers.

Ray Serve hands a router's module to each process by value: what stands in it is there once more in every process that
routes, apart from what others import.  So nothing that is shared may stand in ``router.py``, and that module must name
what is here through this one.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any, Generic, TypeAlias, TypeVarTuple, Unpack

from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.scheduling.routing import ReplicaChoice

NewsT = TypeVarTuple("NewsT")
_listeners: list[Callable[[frozenset[str]], None]] = []  # called from the router's thread
_unwell_listeners: list[Callable[[frozenset[str]], None]] = []  # called from any thread
MemoryUse: TypeAlias = Mapping[str, tuple[int, int]]  # used and budgeted bytes by kind


class Topic(Generic[*NewsT]):
    """What routers last heard of each of some things, for all who listen, from the routers' threads.

    Who begins to listen hears at once what was heard before: a router may hear of its replicas as soon as it is made,
    and not again until something changes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, tuple[*NewsT]] = {}
        self._listeners: list[Callable[[Unpack[NewsT]], None]] = []

    def listen(self, listener: Callable[[Unpack[NewsT]], None]) -> None:
        """Have a listener called with what is heard of each thing."""
        with self._lock:
            self._listeners.append(listener)
            for news in self._latest.values():
                listener(*news)

    def tell(self, of: str, *news: *NewsT) -> None:
        """Tell what was heard of a thing."""
        with self._lock:
            self._latest[of] = news
            for listener in self._listeners:
                listener(*news)


_template_use: Topic[str, TemplateUse] = Topic()
_memory_use: Topic[str, str, MemoryUse] = Topic()
_residents: Topic[str, Mapping[str, Collection[str]]] = Topic()
_models: dict[str, str] = {}  # by application, where that is not MODEL.COMPONENT
_replicas: dict[str, frozenset[str]] = {}  # the ids of each application's replicas
choice = ReplicaChoice()  # what this process's calls have in hand, and where templates are as far as it knows
rng = Random()


def on_departure(listener: Callable[[frozenset[str]], None]) -> None:
    """Call ``listener`` with replicas that left, from another thread."""
    _listeners.append(listener)


def on_unwell(listener: Callable[[frozenset[str]], None]) -> None:
    """Call ``listener`` with all replicas that drain or hang each time that one begins or ends to, from any thread."""
    _unwell_listeners.append(listener)


def on_template_use(listener: Callable[[str, TemplateUse], None]) -> None:
    """Call ``listener`` with a model's template use, from this thread and others."""
    _template_use.listen(listener)


def on_memory_use(listener: Callable[[str, str, MemoryUse], None]) -> None:
    """Call ``listener`` with a node's component and model, and what all its replicas keep by kind, likewise."""
    _memory_use.listen(listener)


def on_replicas(listener: Callable[[str, Mapping[str, Collection[str]]], None]) -> None:
    """Call ``listener`` with an application, its replicas and the nodes that each holds, likewise."""
    _residents.listen(listener)


def record_replicas(app: str, resident: Mapping[str, Collection[str]]) -> None:
    """Record which replicas an application has, and which nodes of shared workers each holds."""
    _replicas[app] = frozenset(resident)
    _residents.tell(app, app, resident)


def name_models(models: Mapping[str, str]) -> None:
    """Tell watchers of these applications by their models."""
    _models.update(models)


def leave(replica: str) -> None:
    """Send a replica that is being drained no more calls while there is another."""
    choice.draining.add(replica)
    _tell_unwell()


def left(replicas: Collection[str]) -> None:
    """Replicas are gone."""
    choice.forget(replicas)
    for listener in _listeners:
        listener(frozenset(replicas))
    _tell_unwell()


def replicas_of(app: str) -> frozenset[str]:
    """Return the ids of an application's replicas; none while no router has heard of it."""
    return _replicas.get(app, frozenset())


def note_hung(before: Collection[str], hung: Collection[str]) -> None:
    """Of the replicas that hung ``before`` and those that hang now only the latter are to be kept away from."""
    choice.hung.difference_update(set(before) - set(hung))
    choice.hung.update(hung)
    _tell_unwell()


def _tell_unwell() -> None:
    unwell = frozenset(choice.draining | choice.hung)
    for listener in _unwell_listeners:
        listener(unwell)


def record_stats(app: str, stats: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Record what the replicas of an application say of themselves."""
    own_model, _, component = app.rpartition(".")
    model = _models.get(app, own_model)
    uses = [TemplateUse(**each["template_use"]) for each in stats if "template_use" in each]
    if uses:
        _template_use.tell(app, model, sum(uses, TemplateUse()))
    kept: dict[str, tuple[int, int]] = {}
    for each in stats:
        for kind, (used, budget) in each.get("memory", {}).items():
            known = kept.get(kind, (0, 0))
            kept[kind] = (known[0] + used, known[1] + budget)
    if kept:
        _memory_use.tell(app, component, model, kept)
