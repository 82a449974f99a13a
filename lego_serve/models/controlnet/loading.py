"""From a ControlNet's folder to the ControlNet, checked against the model it is for.

The folder is diffusers' own: a ``config.json`` and safetensors.  A family's ControlNets are one file in
this folder, of the family's name.  One that is for another backbone is refused with a line that names both.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from lego_serve.errors import CheckpointError
from lego_serve.models import controlnet, model_files
from lego_serve.models.controlnet.common import LoadedControlNet
from lego_serve.models.registry import ModelSpec, families


def load_controlnet(spec: ModelSpec, base: ModelSpec) -> LoadedControlNet:
    """The ControlNet of a folder for a base model, whose folder tells what fits.  Raises CheckpointError."""
    module = _of_family(spec, base.family)
    folder, base_folder = model_files.model_folder(spec, ""), model_files.model_folder(base, "transformer", "vae")
    net: LoadedControlNet = module.load_controlnet(spec, folder, base, base_folder)
    return net


def _of_family(spec: ModelSpec, family: str) -> ModuleType:
    """The file of a family's ControlNets."""
    files = {file.name for file in iter_modules(controlnet.__path__)}
    if family not in files.intersection(families()):  # what all of them share is a file there too
        raise CheckpointError(f"model {spec.name}: family {family!r} has no ControlNets")
    return import_module(f"{controlnet.__name__}.{family}")
