"""The items of A1111's lists: models, samplers, schedulers, adapters, and what this server has none of."""

from collections.abc import Sequence
from dataclasses import dataclass

from lego_serve.compat.samplers import AUTOMATIC, SAMPLERS, SCHEDULERS, exact_sampler

Json = dict[str, object]
NO_SCRIPTS: Json = {"txt2img": [], "img2img": []}
NO_EMBEDDINGS: Json = {"loaded": {}, "skipped": {}}
EMPTY = ("prompt-styles", "extensions", "hypernetworks", "face-restorers", "realesrgan-models", "script-info", "sd-vae")


@dataclass(frozen=True, slots=True)
class ModelItem:
    """A model as a picker shows it; ``sha256`` is empty where it is not known."""

    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class LoraItem:
    """An adapter by its name here and by the one that people know it by."""

    name: str
    alias: str = ""


def sd_models(models: Sequence[ModelItem]) -> list[Json]:
    """Return the answer of ``GET sd-models``; folders of this machine are not told."""
    return [
        {
            "title": model.name,
            "model_name": model.name,
            "hash": model.sha256[:10] or None,
            "sha256": model.sha256 or None,
            "filename": model.name,
            "config": None,
        }
        for model in models
    ]


def samplers() -> list[Json]:
    """Return the answer of ``GET samplers``: those that are here, then those that others stand in for."""
    ordered = sorted(SAMPLERS.items(), key=lambda item: exact_sampler(item[0]) is None)
    return [{"name": label, "aliases": [f"k_{name}"], "options": {}} for name, (label, _) in ordered]


def schedulers() -> list[Json]:
    """Return the answer of ``GET schedulers``."""
    words = [(AUTOMATIC, "Automatic"), *SCHEDULERS.values()]
    return [
        {"name": name, "label": label, "aliases": [], "default_rho": -1.0, "need_inner_model": False}
        for name, label in words
    ]


def loras(adapters: Sequence[LoraItem]) -> list[Json]:
    """Return the answer of ``GET loras``."""
    return [
        {"name": adapter.name, "alias": adapter.alias or adapter.name, "path": adapter.name, "metadata": {}}
        for adapter in adapters
    ]


def upscalers() -> list[Json]:
    """Return the answer of ``GET upscalers``: that which does nothing, which clients look for."""
    return [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}]


def latent_upscale_modes() -> list[Json]:
    """Return the answer of ``GET latent-upscale-modes``: none, for there is no second pass."""
    return []


def cmd_flags() -> Json:
    """Return the answer of ``GET cmd-flags``: what of A1111's flags is true of this server."""
    return {"api": True, "nowebui": True, "listen": True, "ckpt": None, "lora_dir": None}


def memory(ram_free: int, ram_used: int, ram_total: int) -> Json:
    """Return the answer of ``GET memory``; accelerators are with the replicas, not with who answers."""
    return {
        "ram": {"free": ram_free, "used": ram_used, "total": ram_total},
        "cuda": {"error": "unavailable: models run in other processes"},
    }


def controlnet_models(names: Sequence[str]) -> Json:
    """Return the answer of ``GET /controlnet/model_list``."""
    return {"model_list": list(names)}


def controlnet_modules() -> Json:
    """Return the answer of ``GET /controlnet/module_list``: no preprocessor, images come ready."""
    return {"module_list": ["none"], "module_detail": {"none": {"model_free": False, "sliders": []}}}
