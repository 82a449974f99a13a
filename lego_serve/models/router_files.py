"""Reads and writes the router of rows per block that lies beside a model's weights, with the digest of those."""

from dataclasses import fields
from pathlib import Path

from lego_serve.errors import CheckpointError
from lego_serve.models.derived.bound_tensors import TensorFormat
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.pruning.router import BlockRouter, Scorer
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import ROUTER, local_folder
from lego_serve.models.weights_digest import denoiser_digest

PARTS = tuple(field.name for field in fields(Scorer))
FORMAT = TensorFormat("a router", "1")


def write_router(router: BlockRouter, weights: str, file: Path) -> None:
    """Write a router that was trained on weights of a digest, all at once.  Raises OSError."""
    scorers = enumerate(router.scorers, 1)
    tensors = {f"{block}.{part}": getattr(scorer, part) for block, scorer in scorers for part in PARTS}
    FORMAT.write(tensors, weights, file, {"blocks": str(router.blocks)})


def read_router(file: Path, weights: str) -> BlockRouter:
    """Return the router of a file.  Raises ValueError where it cannot be read or was trained on other weights."""
    tensors, facts = FORMAT.read(file, weights)
    try:
        blocks = range(1, int(facts["blocks"]))
        return BlockRouter(tuple(Scorer(**{part: tensors[f"{block}.{part}"] for part in PARTS}) for block in blocks))
    except KeyError as error:
        raise ValueError(f"{file} cannot be read as a router: it has no {error}") from None


def set_router(backbone: Backbone, router: BlockRouter) -> None:
    """Let a backbone choose rows with a router.  Raises ValueError where that is for a model of another shape."""
    joint = [attention for attention in backbone.attentions if attention.is_joint]
    width = joint[0].heads * joint[0].width
    if router.blocks != len(joint) or router.width != width:
        message = f"it is for {router.blocks} blocks of width {router.width}"
        raise ValueError(f"{message}, and the model has {len(joint)} of width {width}")
    backbone.router = router.on(backbone.device, backbone.linear_ops)


def load_router(spec: ModelSpec, backbone: Backbone) -> None:
    """Give a backbone the router that lies beside its weights, if one does.  Raises CheckpointError."""
    folder = local_folder(spec.path)
    if folder is None or not (file := folder / ROUTER).is_file():
        return
    try:
        set_router(backbone, read_router(file, denoiser_digest(folder)))
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: its router does not fit: {error}") from None
