"""Imports what replicas import, but for Ray, for the process that replicas are forked from.

Ray reads the environment of a worker when it is imported, so each replica imports that on its own; the web libraries
that Ray Serve imports in turn are here.
"""

from importlib import import_module
from pkgutil import iter_modules

import fastapi  # noqa: F401
import uvicorn  # noqa: F401
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler  # noqa: F401
from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel  # noqa: F401

from lego_serve.models import controlnet, families
from lego_serve.serving.nodes import backbone, lora, text_encoder, vae  # noqa: F401
from lego_serve.serving.nodes.controlnets import node  # noqa: F401

for package in (families, controlnet):
    for file in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{file.name}")
