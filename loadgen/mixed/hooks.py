"""Hooks of a suite whose requests differ from ``mixed``'s."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadgen.mixed.bench import Inspect, Storage, Variant
from loadgen.mixed.rounds import Measurements
from loadgen.mixed.workload import RequestSource


@dataclass(frozen=True, slots=True)
class ReportSupplement:
    """Facts on the suite, figures on its images, and files of image grids, added to the summary and the report."""

    about: Mapping[str, object] = field(default_factory=dict)
    quality: Mapping[str, object] = field(default_factory=dict)
    grids: Sequence[Path] = ()


def no_supplement(measured: Measurements, out: Path) -> ReportSupplement:
    """Add nothing."""
    return ReportSupplement()


@dataclass(frozen=True, slots=True)
class SuiteHooks:
    """A suite's requests, the storage of its add-ons, lego's variants, its checks and what it adds to the report."""

    workload: RequestSource
    storage: Storage | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    inspect: Inspect | None = None
    supplement: Callable[[Measurements, Path], ReportSupplement] = no_supplement
