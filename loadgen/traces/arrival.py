"""One request of a published trace, before it becomes the body of an image request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

GENERATION, EDIT, INPAINT = "generation", "edit", "inpaint"  # without an image, with one, with one and a mask
KINDS = (GENERATION, EDIT, INPAINT)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the trace describes it; ``solo_s`` is what the trace says it takes alone, where it does."""

    at_s: float
    workflow: str
    tenant: str = ""
    kind: str = GENERATION
    controlnets: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    images: int = 1
    steps: int | None = None
    solo_s: float | None = None
    source: Mapping[str, object] = field(default_factory=dict)  # facts that have no place in an image request
