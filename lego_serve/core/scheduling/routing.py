"""Which replica takes a call: the one with the least work in hand among those that may; pure, over replica ids."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from lego_serve.core.addons import LoadedAdapter
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.templates import entries_label

HINT_S = 30.0  # how long a template counts as being where a call for it went, before the replica says so itself
HINTS = 4096
MAX_FACTOR = 1 << 64  # of anything counted: a workflow may leave its whole numbers unbounded, and floats are not
MIN_STRENGTH = 1e-3  # of an edit's steps: one is run however weak it is


def exclude(replicas: Sequence[str], avoid: Collection[str]) -> list[str]:
    """The replicas a call may go to: all but those it avoids, or all where it avoids every one."""
    return [replica for replica in replicas if replica not in avoid] or list(replicas)


def quarantine(replicas: Sequence[str], suspects: bool) -> list[str]:
    """Suspect calls share one replica, the first by id, so that their next deaths take one replica down, not all."""
    return sorted(replicas)[:1] if suspects else list(replicas)


def denoising_work(inputs: Mapping[str, object]) -> float:
    """What a denoising call weighs against another: its pixels times the passes over them, of both branches."""
    factors = (inputs.get(name, 1) for name in ("n", "width", "height", "steps"))
    whole = float(_branches(inputs))
    for factor in factors:
        whole *= min(factor, MAX_FACTOR) if isinstance(factor, int | float) else 1
    edit = edit_of(inputs)
    return whole if edit is None else whole * edit.active_ratio


def edit_of(inputs: Mapping[str, object]) -> EditLatents | None:
    """The edit of a denoising call that reads its template's activations; None for any other."""
    given = inputs.get("edit")
    edit = given.get("edit") if isinstance(given, Mapping) else None
    return edit if isinstance(edit, EditLatents) and edit.active_ratio < 1 else None


def priming_work(inputs: Mapping[str, object]) -> float:
    """What an edit's call weighs besides where its template's activations are not: one pass over all of it a step.

    One for each branch where a caption primes the first; else all are mostly primed alike.
    """
    edit = edit_of(inputs)
    if edit is None:
        return 0.0
    n = inputs.get("n", 1)
    images = min(n, MAX_FACTOR) if isinstance(n, int) else 1  # which share one priming
    shared = 1 if edit.is_described else _branches(inputs)
    return denoising_work(inputs) / edit.active_ratio / images / shared


def entries_read(inputs: Mapping[str, object]) -> dict[str, float]:
    """What an edit's call reads of its template, by ``entries_label``, and for which part of its steps.

    An adapter takes part in some of them, and entries are those of the adapters of their step.
    """
    edit = edit_of(inputs)
    if edit is None:
        return {}
    given = inputs.get("adapters")
    adapters: Sequence[LoadedAdapter] = given.get("adapters", ()) if isinstance(given, Mapping) else ()
    active = [adapter for adapter in adapters if adapter.has_denoiser and adapter.ask.scale != 0]
    strength = inputs.get("strength", 1.0)
    first = 1.0 - max(strength, MIN_STRENGTH) if isinstance(strength, int | float) and 0 < strength <= 1 else 0.0
    turns = {min(max(turn, first), 1.0) for a in active for turn in (a.ask.start, a.ask.end)}
    found: dict[str, float] = {}
    for start, end in pairwise(sorted(turns | {first, 1.0})):
        mine = [(_named(a), a.ask.scale) for a in active if a.ask.start <= start < a.ask.end]
        label = entries_label(edit.key, mine)
        found[label] = found.get(label, 0.0) + (end - start) / (1.0 - first)
    return found


def _named(adapter: LoadedAdapter) -> str:
    """What an adapter's entries go by; one whose file is still being read has none, and shares no name with others."""
    return adapter.sha256 or f"{adapter.ask.name} {adapter.version}"


def _branches(inputs: Mapping[str, object]) -> int:
    """Passes over an image in a step: with and without the prompt, or one where a model is told the guidance."""
    guidance = inputs.get("guidance", 1)
    return 2 if isinstance(guidance, int | float) and guidance > 1 and "negative" in inputs else 1


class Residency:
    """Where templates' activations are: as replicas report, and, until they do, where calls for them went.

    Of each by ``entries_label``, for what one set of adapters primed is of no use to another.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, str], float] = OrderedDict()

    def record_sent(self, replica: str, template: str, now: float) -> None:
        """A call for a template went to a replica."""
        self._sent[replica, template] = now
        self._sent.move_to_end((replica, template))
        while len(self._sent) > HINTS:
            self._sent.popitem(last=False)

    def has(self, replica: str, template: str, reported: Collection[str], now: float) -> bool:
        """Whether a replica, which reports these templates, is taken to have one."""
        return template in reported or now - self._sent.get((replica, template), -HINT_S) < HINT_S


def priming_by_replica(
    inputs: Mapping[str, object], reported: Mapping[str, Collection[str]], where: Residency, now: float
) -> dict[str, float]:
    """What a denoising call weighs more on each replica, by the templates each reports; nothing but for edits."""
    read, priming = entries_read(inputs), priming_work(inputs)
    if not read:
        return {}
    return {
        replica: priming * sum(share for label, share in read.items() if not where.has(replica, label, told, now))
        for replica, told in reported.items()
    }


class Outstanding:
    """The work that calls of one process have in hand, by the replica they were sent to.

    Counted whole until a call ends: how far each is is known too late to be worth the messages.
    """

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, float]] = {}

    def of(self, replica: str) -> float:
        """The work of the calls a replica has."""
        return sum(work for place, work in list(self._calls.values()) if place == replica)

    def least(self, replicas: Sequence[str], besides: Mapping[str, float] | None = None) -> list[str]:
        """The replicas with the least work in hand and, where a call weighs more on some, ``besides``."""
        more = besides or {}
        work = [self.of(replica) + more.get(replica, 0.0) for replica in replicas]
        return [replica for replica, mine in zip(replicas, work, strict=True) if mine == min(work)]

    def place(self, call: str, replica: str, work: float) -> None:
        """A call goes to a replica; placed again, it has moved."""
        self._calls[call] = (replica, work)

    def end(self, call: str) -> None:
        """A call has ended, wherever it was."""
        self._calls.pop(call, None)
