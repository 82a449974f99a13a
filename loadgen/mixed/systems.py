"""The compared systems of suite ``mixed`` and its like: the monolith as the baseline, and lego_serve."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadgen.mixed.plan import Layout
from loadgen.server import Server, lego_server, monolith

Start = AbstractContextManager[Server]


@dataclass(frozen=True, slots=True)
class MixedSystems:
    """How to start each system: the baseline in a layout, compiled or not, and lego with so many backbones."""

    baseline: Callable[[Layout, bool], Start]
    lego: Callable[[int | None], Start]


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """The files that both systems load, and the folder of their logs."""

    model: str
    weights: Path
    max_sequence_length: int
    out: Path


def http_systems(
    files: SystemFiles,
    lego_config: Callable[[int | None], Path],
    *,
    lego_env: Callable[[], Mapping[str, str]] = dict,
    addons_file: Callable[[int], Path] | None = None,
    edits: bool = False,
) -> MixedSystems:
    """Return both systems as child processes.

    ``lego_config`` returns the configuration with so many backbones, ``addons_file`` the baseline's file of add-ons
    for so many replicas; both are called at every start.  With ``edits`` the baseline only edits images.
    """

    def baseline(layout: Layout, compiled: bool) -> Start:
        return monolith(
            files.weights,
            files.max_sequence_length,
            files.out / "baseline.log",
            replicas=layout.replicas,
            threads=layout.threads,
            compiled=compiled,
            addons=addons_file(layout.replicas) if addons_file is not None else None,
            edits=edits,
        )

    def lego(backbones: int | None) -> Start:
        return lego_server(lego_config(backbones), files.model, files.out / "server.log", lego_env())

    return MixedSystems(baseline, lego)
