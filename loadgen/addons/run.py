"""Runs suite ``addons``."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from loadgen.addons.applied import inspect_applied
from loadgen.addons.plan import ADDONS, ADDONS_PLAN
from loadgen.addons.storage import Pool, SimulatedStorage
from loadgen.addons.workload import AddonsWorkload, dealt, katz_curves
from loadgen.children import ChildError
from loadgen.mixed.extras import Extras, View
from loadgen.mixed.lego_layout import with_backbones
from loadgen.mixed.plan import Layout
from loadgen.mixed.run import SEED, compare_mixed
from loadgen.mixed.sides import MixedSides, Start, Tell
from loadgen.server import lego_server, monolith


def compare_addons(
    weights: Path, max_sequence_length: int, config: Path, out: Path, *, quick: bool, tell: Tell
) -> dict[str, object]:
    """Run the suite and write ``summary.json`` and ``report.html`` into ``out``; returns the summary."""
    out.mkdir(parents=True, exist_ok=True)
    pool = _derived(out, tell)
    names = dealt(ADDONS_PLAN, list(pool.adapter_sizes), list(pool.controlnet_sizes), SEED)
    curves = katz_curves(Path.cwd())
    workload = AddonsWorkload(ADDONS, ADDONS_PLAN, names, SEED, curves)
    storage = SimulatedStorage(ADDONS_PLAN, pool, workload.plain_request, out)
    return compare_mixed(
        ADDONS,
        _sides(weights, max_sequence_length, config, storage, out),
        out,
        quick=quick,
        tell=tell,
        extras=Extras(
            workload,
            storage,
            inspect=partial(inspect_applied, count=ADDONS_PLAN.checked),
            view=lambda seen, folder: View(_about(storage, curves is not None)),
        ),
    )


def _sides(weights: Path, max_sequence_length: int, config: Path, storage: SimulatedStorage, out: Path) -> MixedSides:
    def baseline(layout: Layout, compiled: bool) -> Start:
        return monolith(
            weights,
            max_sequence_length,
            out / "baseline.log",
            replicas=layout.replicas,
            threads=layout.threads,
            compiled=compiled,
            addons=storage.baseline_file(layout.replicas),
        )

    def lego(backbones: int | None) -> Start:
        chosen = config if backbones is None else with_backbones(config, ADDONS.model, backbones, out)
        return lego_server(storage.lego_config(chosen, ADDONS.model), ADDONS.model, out / "server.log")

    return MixedSides(baseline, lego)


def _about(storage: SimulatedStorage, is_from_file: bool) -> dict[str, object]:
    """What a reader of the summary must know of the add-ons."""
    plan = ADDONS_PLAN
    return {
        "adapters": plan.adapters,
        "controlnets": plan.controlnets,
        "popularity": "Katz's curves, from the file" if is_from_file else "Katz's curves, as the package has them",
        "adapter_load_s": storage.adapter_load_s,
        "controlnet_load_s": storage.controlnet_load_s,
        "adapter_bytes_kept": storage.adapter_bytes,
        "controlnet_bytes_kept": storage.controlnet_bytes,
    }


def _derived(out: Path, tell: Tell) -> Pool:
    """Adapters and ControlNets derived from the trained ones, made once in a folder of results.

    Raises ChildError when they cannot be.
    """
    pool = Pool(out / "pool" / "adapters", out / "pool" / "controlnets")
    for command, folder, count, found in (
        ("derive", pool.adapters, ADDONS_PLAN.adapters, len(pool.adapter_sizes)),
        ("derive-controlnets", pool.controlnets, ADDONS_PLAN.controlnets, len(pool.controlnet_sizes)),
    ):
        if found != count:
            tell(f"deriving {count} in {folder}")
            words = [sys.executable, "-m", "lego_serve.zoo", command, str(folder), "--count", str(count)]
            made = subprocess.run(words, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise ChildError(f"{json.dumps(words)} ended with {made.returncode}:\n{made.stderr[-2000:]}")
    return pool
