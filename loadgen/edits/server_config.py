"""The weights and the configuration of a suite of edits: the shipped ones, or stretched for larger images."""

from pathlib import Path

import yaml

from loadgen.edits.plan import EditsPlan
from loadgen.package import package_path
from loadgen.server_config import Settings, derive_config


def edits_weights(weights: Path, plan: EditsPlan, out: Path) -> Path:
    """Return the folder that both systems load."""
    if plan.side <= plan.trained_side:
        return weights
    from loadgen.baselines.position_interpolation import interpolate_positions

    return interpolate_positions(weights, plan.side, out / "weights" / weights.name)


def edits_config(config: Path, model: str, weights: Path, plan: EditsPlan, out: Path) -> Path:
    """Derive the server's configuration with the plan's bytes for templates.

    For larger images it also names the stretched weights and a copy of the model's workflow of edits with raised
    bounds, and leaves out the add-ons, whose workflows know no such images.
    """

    def change(settings: Settings) -> None:
        entry = settings["models"][model]
        entry.setdefault("nodes", {}).setdefault("backbone", {})["template_bytes"] = plan.template_bytes
        if plan.side > plan.trained_side:
            entry["path"] = str(weights.absolute())
            for addons in ("adapters", "controlnets"):
                entry.pop(addons, None)
            settings["workflows"] = [model, str(_larger_workflow(model, plan.side, out))]

    return derive_config(config, out, "edits", change)


def _larger_workflow(model: str, side: int, out: Path) -> Path:
    name = f"{model}-edit"
    workflow = yaml.safe_load(package_path("workflows", f"{name}.yaml").read_text())
    for bound in ("width", "height"):
        workflow["inputs"][bound]["max"] = side
    derived = (out / f"{name}-{side}.yaml").absolute()
    derived.write_text(yaml.safe_dump(workflow, sort_keys=False))
    return derived
