"""Loads one component of a model, whichever its family.

A family is one file in ``families`` with a ``load_backbone`` and a ``load_text_encoder`` built from the pieces of
``model_files``, the ``PATCH`` of its tokens, and ``LORA_TARGETS`` where it takes adapters.
"""

from types import ModuleType

from lego_serve.errors import CheckpointError
from lego_serve.models.model_files import load_module, model_folder
from lego_serve.models.ragged.backbone import Backbone, TextEncoder
from lego_serve.models.ragged.linear_kinds.fp8_rows import use_fp8_rows
from lego_serve.models.ragged.linear_kinds.int8_rows import use_int8_rows
from lego_serve.models.registry import ModelSpec, families, family_module
from lego_serve.models.router_files import load_router
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.models.sparse24_files import load_sparse24, sparse24_digest
from lego_serve.models.vae import KlVae


def load_backbone(spec: ModelSpec) -> tuple[Backbone, FlowMatchTables]:
    """Load the denoiser of a model, with its router where it has one, and its sigma tables.  Raises CheckpointError."""
    backbone, tables = _family(spec).load_backbone(spec)
    if spec.linear == "int8":
        use_int8_rows(backbone, spec.name)
    elif spec.linear == "fp8":
        use_fp8_rows(backbone, spec.name)
    elif spec.linear == "sparse24":
        load_sparse24(spec, backbone)
    load_router(spec, backbone)
    return backbone, tables


def computed_revision(spec: ModelSpec, revision: str) -> str:
    """Return a revision of a model's weights that also tells apart how its blocks multiply."""
    if spec.linear == "dense":
        return revision
    residuals = f" {sparse24_digest(spec)}" if spec.linear == "sparse24" else ""
    return f"{revision} {spec.linear}{residuals}"


def load_text_encoder(spec: ModelSpec) -> TextEncoder:
    """Load the text encoders and tokenizers of a model.  Raises CheckpointError."""
    encoder: TextEncoder = _family(spec).load_text_encoder(spec)
    return encoder


def load_vae(spec: ModelSpec) -> KlVae:
    """Load the autoencoder of a model; every family has the same."""
    from diffusers import AutoencoderKL

    return KlVae(load_module(spec, model_folder(spec, "vae"), "vae", AutoencoderKL))


def latent_patch(spec: ModelSpec) -> int:
    """Return the latent pixels per side of a token in a model's family."""
    return int(_family(spec).PATCH)


def _family(spec: ModelSpec) -> ModuleType:
    """Return the module of a model's family: one file in ``families``, found by its name."""
    if spec.family not in families():
        known = ", ".join(families())
        raise CheckpointError(f"model {spec.name}: no family {spec.family!r}; there is {known}")
    return family_module(spec.family)
