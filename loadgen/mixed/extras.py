"""What suites of other requests than ``mixed``'s bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadgen.mixed.objective import Timed
from loadgen.mixed.rounds import Seen
from loadgen.mixed.sides import Server, Storage, Variant
from loadgen.mixed.workload import Dealer


@dataclass(frozen=True, slots=True)
class View:
    """What a look at all that was measured adds: words on the suite and on its images, and files of images."""

    about: Mapping[str, object] = field(default_factory=dict)
    quality: Mapping[str, object] = field(default_factory=dict)
    grids: Sequence[Path] = ()


def no_view(seen: Seen, out: Path) -> View:
    """Nothing besides."""
    return View()


@dataclass(frozen=True, slots=True)
class Extras:
    """A workload, what it is loaded from, lego's other ways, a look at its server after a round, and one at the end."""

    workload: Dealer
    storage: Storage | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    inspect: Callable[[Server, Timed], Mapping[str, object]] | None = None
    view: Callable[[Seen, Path], View] = no_view
