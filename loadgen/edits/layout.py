"""What both sides are started with: the shipped weights, or the same stretched for images larger than theirs."""

from pathlib import Path

import yaml

from loadgen.edits.plan import EditsPlan
from loadgen.mixed.lego_layout import absolute_workflows
from loadgen.package import shipped


def edits_weights(weights: Path, plan: EditsPlan, out: Path) -> Path:
    """The folder that both sides load."""
    if plan.side <= plan.trained_side:
        return weights
    from loadgen.baselines.larger import with_larger_sides

    return with_larger_sides(weights, plan.side, out / "weights" / weights.name)


def edits_config(config: Path, model: str, weights: Path, plan: EditsPlan, out: Path) -> Path:
    """The server's configuration with so many bytes for templates, written beside the results.

    For larger images it also names the stretched weights, and a copy of the model's workflow of edits whose bounds
    are raised; what other workflows need, which know no such images, is left out.
    """
    settings = yaml.safe_load(config.read_text())
    said = settings["models"][model]
    said.setdefault("nodes", {}).setdefault("backbone", {})["template_bytes"] = plan.template_bytes
    if plan.side > plan.trained_side:
        said["path"] = str(weights.absolute())
        for addons in ("adapters", "controlnets"):
            said.pop(addons, None)
        settings["workflows"] = [model, str(_larger_workflow(model, plan.side, out))]
    absolute_workflows(settings, config.parent)
    derived = out / f"{config.stem}-edits.yaml"
    derived.write_text(yaml.safe_dump(settings, sort_keys=False))
    return derived


def _larger_workflow(model: str, side: int, out: Path) -> Path:
    name = f"{model}-edit"
    workflow = yaml.safe_load(shipped("workflows", f"{name}.yaml").read_text())
    for bound in ("width", "height"):
        workflow["inputs"][bound]["max"] = side
    derived = (out / f"{name}-{side}.yaml").absolute()
    derived.write_text(yaml.safe_dump(workflow, sort_keys=False))
    return derived
