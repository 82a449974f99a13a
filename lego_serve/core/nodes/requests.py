"""Requests to nodes besides those of workflows: from operators, from coordinators and from other nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from lego_serve.core.adapter_files import PassedOver
from lego_serve.core.addons import AdapterFacts
from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.tiers.grids import Grid
from lego_serve.core.values import Array, NodeRequest

ReplyT = TypeVar("ReplyT", covariant=True)


@dataclass(frozen=True, slots=True)
class Done:
    """The reply to a request that has no other result."""


@dataclass(frozen=True, slots=True)
class PreviewMatrix:
    """A matrix (9 * channels + 1, 3) from a 3 x 3 window of latents, and a one, to a pixel's RGB in 0..1."""

    matrix: Array


@dataclass(frozen=True, slots=True)
class FitPreview(NodeRequest[PreviewMatrix]):
    """Asks a VAE node for its preview matrix."""


@dataclass(frozen=True, slots=True)
class AdapterIdentity:
    """The content of an adapter's file: its SHA-256 and its bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class IdentifyAdapter(NodeRequest[AdapterIdentity]):
    """Asks the LoRA node for the hash of this version of an adapter's file, once it has been read."""

    name: str
    version: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdapterBytes:
    """A converted adapter as bytes (8-bit, one dimension), and the seconds its load took."""

    data: Array
    load_s: float


@dataclass(frozen=True, slots=True)
class FetchAdapter(NodeRequest[AdapterBytes]):
    """Asks the LoRA node for an adapter, for these components of the model."""

    name: str
    sha256: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """An adapter as an operator sees it; ``in_lora_node``: whether the LoRA node caches it, None if never read."""

    facts: AdapterFacts = field(default_factory=AdapterFacts)
    sha256: str | None = None
    in_lora_node: bool | None = None


@dataclass(frozen=True, slots=True)
class AdapterCards:
    """Adapters by name, and in a list the files that are none though they may be meant as such."""

    cards: Mapping[str, AdapterCard]
    passed_over: Sequence[PassedOver] = ()


@dataclass(frozen=True, slots=True)
class ModelAdapters:
    """A model, the facts about its adapters that a request was about, by name, and files that are passed over."""

    model: str
    adapters: Mapping[str, AdapterFacts] = field(default_factory=dict)
    passed_over: Sequence[PassedOver] = ()


@dataclass(frozen=True, slots=True)
class ListAdapterNames(NodeRequest[AdapterCards]):
    """Asks the LoRA node for the names of its adapters; it reads no files."""


@dataclass(frozen=True, slots=True)
class ListAdapters(NodeRequest[AdapterCards]):
    """Asks the LoRA node for all adapters, with facts from their files' headers."""


@dataclass(frozen=True, slots=True)
class ShowAdapter(NodeRequest[AdapterCards]):
    """Asks the LoRA node to read and check one adapter."""

    name: str


@dataclass(frozen=True, slots=True)
class RegisterAdapter(NodeRequest[AdapterCards]):
    """Gives a name to an adapter's file; ``path`` leads to it from a configured root."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class RemoveAdapter(NodeRequest[Done]):
    """Unregisters a name."""

    name: str


AdapterAdminRequest: TypeAlias = ListAdapterNames | ListAdapters | ShowAdapter | RegisterAdapter | RemoveAdapter


class ReplicaCommand(NodeRequest[ReplyT]):
    """A command that every replica of a node receives; its type argument is a replica's reply."""

    __slots__ = ()


class TemplateCommand(ReplicaCommand[ReplyT]):
    """A command about a template that backbone replicas cache."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TemplateSize:
    """What templates of a size take of a replica: token rows, bytes of an entry, and what a prompt's rows add to it.

    ``begins``: where a grid was asked about, the asked step that each of its steps begins in.
    """

    rows: int
    entry_bytes: int
    text_bytes: int
    begins: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Identify(ReplicaCommand[Done]):
    """Asks for nothing but a reply, which has the replica's id."""


@dataclass(frozen=True, slots=True)
class DrainReplica(ReplicaCommand[int]):
    """Moves the lanes of the replica with this id elsewhere; the reply is how many calls moved."""

    replica: str


@dataclass(frozen=True, slots=True)
class PauseCall(ReplicaCommand[int]):
    """Pauses or resumes the lanes of a call between two steps; the reply is how many of them the replica has."""

    key: str
    is_paused: bool


@dataclass(frozen=True, slots=True)
class MeasureTemplate(TemplateCommand[TemplateSize]):
    """Asks how many rows and bytes a template of this size, in pixels, takes.

    With a ``grid`` also where its steps lie among so many ``steps`` of a ``sampler``, which only the model knows.
    """

    width: int
    height: int
    sampler: str = "euler"
    steps: int = 0
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class CountTemplateBytes(TemplateCommand[int]):
    """Asks how many bytes of an image are cached."""

    image: str


@dataclass(frozen=True, slots=True)
class ListTemplateBytes(TemplateCommand[Mapping[str, int]]):
    """Asks how many bytes are cached of each image that any is cached of."""


@dataclass(frozen=True, slots=True)
class ForgetTemplate(TemplateCommand[int]):
    """Drops what is cached of an image, and its pin; the reply is how many bytes were freed."""

    image: str
    pin: str = ""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The bytes that a replica keeps of a kind of thing, and how many it may; 0 where nothing bounds them.

    ``evicted``: how many of them have made room for others since the replica started.
    """

    kind: str
    used: int
    budget: int = 0
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has in hand: images or calls that run and that wait, and the images of its last steps.

    ``machine`` is its host's name.  ``room``: the most images, each as large as those of its last step, or the most
    calls that it would take into one step; 0 where it has no steps, or nothing bounds them.
    """

    running: int = 0
    waiting: int = 0
    step_s: float = 0.0
    recent: tuple[int, ...] = ()
    memory: tuple[MemoryUse, ...] = ()
    machine: str = ""
    is_draining: bool = False
    room: int = 0


@dataclass(frozen=True, slots=True)
class RunningStep:
    """For how many seconds a replica's step has run, and how many were predicted."""

    elapsed_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class CallsInHand:
    """The keys of the calls that a replica has taken and not answered, and its step, where it runs one."""

    keys: frozenset[str]
    step: RunningStep | None = None


@dataclass(frozen=True, slots=True)
class ReportCalls(ReplicaCommand[CallsInHand]):
    """Asks which calls a replica has in hand; that it answers says that it lives."""


def process_of(replica: str) -> str:
    """Return the id of a replica's process: a shared worker adds the name of the node that is asked about to it."""
    return replica.partition(".")[0]


@dataclass(frozen=True, slots=True)
class SeenReplica:
    """A replica that answered, and which node it belongs to; a shared worker is seen once for each of its nodes."""

    id: str
    model: str
    component: str
    load: ReplicaLoad

    @property
    def is_shared(self) -> bool:
        """Whether it is a node on a shared worker."""
        return process_of(self.id) != self.id


@dataclass(frozen=True, slots=True)
class ReportLoad(ReplicaCommand[ReplicaLoad]):
    """Asks what a replica has in hand."""


@dataclass(frozen=True, slots=True)
class ListResidentAdapters(ReplicaCommand[tuple[str, ...]]):
    """Asks for the hashes of the adapters in memory."""


@dataclass(frozen=True, slots=True)
class HelperAddress:
    """Where a replica computes guidance branches for others, the token that it wants to hear first, and its bits."""

    host: str
    port: int
    token: str
    computes: ComputedAs


@dataclass(frozen=True, slots=True)
class OfferHelp(ReplicaCommand[HelperAddress]):
    """Asks a backbone replica where it computes branches of other lanes, while nothing else computes there."""
