"""Which replica takes a call: the one with the least work in hand among those that may; pure, over replica ids."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from lego_serve.core.addons import LoadedAdapter
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.templates import entries_label
from lego_serve.core.nodes.messages import DenoiseInput

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


def denoising_work(request: DenoiseInput) -> float:
    """Weigh a denoising call against another: its pixels times the passes over them, of both branches."""
    whole = float(_branches(request)) * request.work_share
    for factor in (request.n, request.width, request.height, request.steps):
        whole *= min(factor, MAX_FACTOR)
    edit = edit_of(request)
    return whole if edit is None else whole * edit.active_ratio


def edit_of(request: DenoiseInput) -> EditLatents | None:
    """The edit of a denoising call that reads its template's activations; None for any other."""
    edit = None if request.edit is None else request.edit.edit
    return edit if edit is not None and edit.active_ratio < 1 else None


def priming_work(request: DenoiseInput) -> float:
    """Weigh what an edit's call does where its template's activations are missing: one pass over all of it a step.

    One for each branch where a caption primes the first; else all are mostly primed alike.
    """
    edit = edit_of(request)
    if edit is None:
        return 0.0
    images = min(request.n, MAX_FACTOR)  # which share one priming
    shared = 1 if edit.is_described else _branches(request)
    return denoising_work(request) / edit.active_ratio / images / shared


def entries_read(request: DenoiseInput) -> dict[str, float]:
    """What an edit's call reads of its template, by ``entries_label``, and for which part of its steps.

    An adapter takes part in some of them, and entries are those of the adapters of their step.
    """
    edit = edit_of(request)
    if edit is None:
        return {}
    active = [a for a in request.loaded_adapters if a.has_denoiser and a.request.scale != 0]
    strength = request.strength
    first = 1.0 - max(strength, MIN_STRENGTH) if 0 < strength <= 1 else 0.0
    turns = {min(max(turn, first), 1.0) for a in active for turn in (a.request.start, a.request.end)}
    shares: dict[str, float] = {}
    for start, end in pairwise(sorted(turns | {first, 1.0})):
        in_use = [(_adapter_key(a), a.request.scale) for a in active if a.request.start <= start < a.request.end]
        label = entries_label(edit.key, in_use)
        shares[label] = shares.get(label, 0.0) + (end - start) / (1.0 - first)
    return shares


def _adapter_key(adapter: LoadedAdapter) -> str:
    """What an adapter's entries go by; one whose file is still being read has none, and shares no name with others."""
    return adapter.sha256 or f"{adapter.request.name} {adapter.version}"


def _branches(request: DenoiseInput) -> int:
    """Passes over an image in a step: with and without the prompt, or one where a model is told the guidance."""
    return 2 if request.guidance > 1 and request.negative is not None else 1


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
    request: DenoiseInput, reported: Mapping[str, Collection[str]], residency: Residency, now: float
) -> dict[str, float]:
    """What a denoising call weighs more on each replica, by the templates each reports; nothing but for edits."""
    read, priming = entries_read(request), priming_work(request)
    if not read:
        return {}
    return {
        replica: priming * sum(part for label, part in read.items() if not residency.has(replica, label, has, now))
        for replica, has in reported.items()
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


@dataclass(frozen=True, slots=True)
class CallHints:
    """What a call says that its replica is chosen by; ``denoise`` where it is a denoising call with a ``key``.

    ``target``: the replica it was placed on.  ``node``: what it needs on a shared worker.
    """

    denoise: DenoiseInput | None = None
    key: str = ""
    avoid: frozenset[str] = frozenset()
    is_suspect: bool = False
    target: str = ""
    node: str = ""


class ReplicaChoice:
    """Chooses replicas for the calls of one process, and keeps account of what they have in hand there."""

    def __init__(self) -> None:
        self.outstanding = Outstanding()
        self.residency = Residency()
        self.draining: set[str] = set()  # replicas that turned a call away and are not gone yet
        self.hung: set[str] = set()  # replicas that owe an answer, or are in a step that does not end

    def ranked(
        self,
        call: CallHints,
        templates: Mapping[str, Collection[str]],
        now: float,
        rng: Random,
        resident: Mapping[str, Collection[str]] = {},
    ) -> list[list[str]]:
        """Rank the replicas (each with the templates it reports) that may take a call: the first group is tried first.

        A denoising call is placed at the replica expected to end it first, and the others follow; of any other call
        two replicas at random are tried, of which the caller takes the one with the shorter queue.  A call that was
        placed goes where it was placed, if that is still there; else one to shared workers goes to those that hold
        its node (``resident``, as each reports), if there are any.
        """
        ids = quarantine(exclude(list(templates), call.avoid | self.draining | self.hung), call.is_suspect)
        if call.target in ids and not call.is_suspect:
            return self._placed(call, now, [call.target], [each for each in ids if each != call.target])
        holders = [each for each in ids if call.node and call.node in resident.get(each, ())]
        ids = ids if call.is_suspect else holders or ids
        if call.denoise is None or not ids:
            return [rng.sample(ids, min(2, len(ids)))]
        extra = priming_by_replica(call.denoise, {i: templates[i] for i in ids}, self.residency, now)
        first = rng.choice(self.outstanding.least(ids, extra))
        rest = [replica for replica in ids if replica != first]
        return self._placed(call, now, [first], rest, extra.get(first, 0.0))

    def _placed(
        self, call: CallHints, now: float, first: list[str], rest: list[str], extra: float = 0.0
    ) -> list[list[str]]:
        """Take note of where a call goes, and of the work that it is there."""
        if call.denoise is not None:
            self.outstanding.place(call.key, first[0], denoising_work(call.denoise) + extra)
            for label in entries_read(call.denoise):
                self.residency.record_sent(first[0], label, now)
        return [first, rest] if rest else [first]

    def forget(self, replicas: Collection[str]) -> None:
        """Replicas are gone."""
        self.draining.difference_update(replicas)
        self.hung.difference_update(replicas)
