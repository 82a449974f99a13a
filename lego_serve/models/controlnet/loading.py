"""Loads a ControlNet from its folder and checks it against its base model.

The folder is diffusers' own: a ``config.json`` and safetensors.  A family's ControlNets are one file in
this package, of the family's name.  A ControlNet for another backbone is refused with a line that names both.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from lego_serve.errors import CheckpointError
from lego_serve.models import controlnet, model_files
from lego_serve.models.controlnet.common import LoadedControlNet
from lego_serve.models.registry import ModelSpec, families


def load_controlnet(spec: ModelSpec, base: ModelSpec) -> LoadedControlNet:
    """Load the ControlNet of ``spec`` for a base model, whose folder says what fits.  Raises CheckpointError."""
    module = _family_module(spec, base.family)
    folder, base_folder = model_files.model_folder(spec, ""), model_files.model_folder(base, "transformer", "vae")
    net: LoadedControlNet = module.load_controlnet(spec, folder, base, base_folder)
    return net


def _family_module(spec: ModelSpec, family: str) -> ModuleType:
    """Return the module of a family's ControlNets.  Raises CheckpointError where there is none."""
    files = {file.name for file in iter_modules(controlnet.__path__)}
    if family not in files.intersection(families()):  # the shared modules are files there too
        raise CheckpointError(f"model {spec.name}: family {family!r} has no ControlNets")
    return import_module(f"{controlnet.__name__}.{family}")
