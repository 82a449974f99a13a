"""Runs suite ``addons``."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loadgen.addons.image_checks import check_addon_images
from loadgen.addons.plan import ADDONS, ADDONS_PLAN
from loadgen.addons.storage import AddonPool, SimulatedStorage
from loadgen.addons.workload import AddonsWorkload, assign_names, katz_curves
from loadgen.children import ChildError
from loadgen.mixed.hooks import ReportSupplement, SuiteHooks
from loadgen.mixed.run import SEED, compare_mixed
from loadgen.mixed.systems import MixedSystems, SystemFiles, http_systems
from loadgen.progress import OnLine
from loadgen.server_config import with_backbones


def compare_addons(
    weights: Path, max_sequence_length: int, config: Path, out: Path, *, quick: bool, on_line: OnLine
) -> dict[str, object]:
    """Run the suite, write ``summary.json`` and ``report.html`` into ``out``, and return the summary."""
    addons = prepare_addons(out, on_line)
    systems = addons_systems(addons, weights, max_sequence_length, config, out)
    hooks = SuiteHooks(
        addons.workload,
        addons.storage,
        inspect=partial(check_addon_images, count=ADDONS_PLAN.checked),
        supplement=lambda measured, folder: ReportSupplement(_facts(addons.storage, addons.has_curves)),
    )
    return compare_mixed(ADDONS, systems, out, quick=quick, on_line=on_line, hooks=hooks)


@dataclass(frozen=True, slots=True)
class PreparedAddons:
    """The derived add-ons, the requests for them and their storage; whether the curves are from Katz's file."""

    pool: AddonPool
    workload: AddonsWorkload
    storage: SimulatedStorage
    has_curves: bool


def prepare_addons(out: Path, on_line: OnLine, pool_folder: Path | None = None) -> PreparedAddons:
    """Derive the add-ons unless they are there, and deal them to requests.  Raises ChildError.

    They lie in ``pool_folder``, by default one in ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    pool = _derive_pool(pool_folder or out / "pool", on_line)
    names = assign_names(ADDONS_PLAN, list(pool.adapter_sizes), list(pool.controlnet_sizes), SEED)
    curves = katz_curves(Path.cwd())
    workload = AddonsWorkload(ADDONS, ADDONS_PLAN, names, SEED, curves)
    storage = SimulatedStorage(ADDONS_PLAN, pool, workload.plain_request, out)
    return PreparedAddons(pool, workload, storage, curves is not None)


def addons_systems(
    addons: PreparedAddons, weights: Path, max_sequence_length: int, config: Path, out: Path
) -> MixedSystems:
    """Return both systems as processes that load their add-ons from the same storage."""
    storage = addons.storage

    def lego_config(backbones: int | None) -> Path:
        return storage.lego_config(with_backbones(config, ADDONS.model, backbones, out), ADDONS.model)

    return http_systems(
        SystemFiles(ADDONS.model, weights, max_sequence_length, out),
        lego_config,
        lego_env=storage.lego_environment,
        addons_file=storage.baseline_file,
    )


def _facts(storage: SimulatedStorage, is_from_file: bool) -> dict[str, object]:
    """Return what a reader of the summary must know of the add-ons."""
    return {
        "adapters": ADDONS_PLAN.adapters,
        "controlnets": ADDONS_PLAN.controlnets,
        "popularity": "Katz's curves, from the file" if is_from_file else "Katz's curves, as the package has them",
        "adapter_load_s": storage.adapter_load_s,
        "controlnet_load_s": storage.controlnet_load_s,
        "adapter_bytes_kept": storage.adapter_bytes,
        "controlnet_bytes_kept": storage.controlnet_bytes,
    }


def _derive_pool(folder: Path, on_line: OnLine) -> AddonPool:
    """Derive adapters and ControlNets from the trained ones, once for a folder.

    Raises ChildError when the command fails.
    """
    pool = AddonPool(folder / "adapters", folder / "controlnets")
    if len(pool.adapter_sizes) != ADDONS_PLAN.adapters:
        _derive("derive", pool.adapters, ADDONS_PLAN.adapters, on_line)
    if len(pool.controlnet_sizes) != ADDONS_PLAN.controlnets:
        _derive("derive-controlnets", pool.controlnets, ADDONS_PLAN.controlnets, on_line)
    return pool


def _derive(command: str, folder: Path, count: int, on_line: OnLine) -> None:
    on_line(f"deriving {count} in {folder}")
    words = [sys.executable, "-m", "lego_serve.zoo", command, str(folder), "--count", str(count)]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise ChildError(f"{words} ended with {process.returncode}:\n{process.stderr[-2000:]}")
