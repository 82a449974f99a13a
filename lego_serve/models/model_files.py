"""Loads a model's modules from disk, one component at a time.

A node reads its own component's folders and nothing else; safetensors only; no remote code; the
network is touched only when the spec says ``fetch``.  What is missing, of another class or of
another shape is one line that names it.  diffusers and transformers are imported where they are
needed: each takes seconds, and a node needs one of them or parts of one.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError, safe_open

from lego_serve.errors import CheckpointError
from lego_serve.models.derived.difference import apply_difference
from lego_serve.models.derived.origin import FILE as DIFFERENCE
from lego_serve.models.derived.origin import Origin, origin_of
from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.registry import BUILT_IN, ModelSpec, built_in_folder
from lego_serve.models.weights_digest import DENOISER, denoiser_digest, weights_digest

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, StrictDataclassError)
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")


def model_folder(spec: ModelSpec, *components: str) -> Path:
    """Return the local folder of a model's components, fetched first if it is a hub id and the spec allows it.

    Of a derived model that is its base's: its own has nothing but what differs, which ``load_module`` heeds.  An empty
    component is a folder that is one module itself, such as a ControlNet's.
    """
    folder = own_folder(spec, *components)
    origin = _origin(spec, folder)
    if origin is None:
        return folder
    base = own_folder(replace(spec, path=origin.path, revision=None), *components)
    if (base / DIFFERENCE).is_file():
        raise CheckpointError(
            f"model {spec.name}: {folder} is derived from {origin.path}, which is derived itself; derive it from the "
            "base of that"
        )
    return base


def own_folder(spec: ModelSpec, *components: str) -> Path:
    """Return the local folder that a model's path names, fetched first likewise; a derived one's is its own."""
    is_built_in = spec.path.startswith(BUILT_IN)
    folder = built_in_folder(spec.path) if is_built_in else Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    if is_built_in or spec.path.startswith((".", "/", "~")):
        raise CheckpointError(f"model {spec.name}: no folder {folder}")
    patterns = [
        "model_index.json",
        DIFFERENCE,
        *((f"{c}/*{e}" if c else f"*{e}") for c in components for e in (".json", ".safetensors", ".txt", ".model")),
    ]
    try:
        found = snapshot_download(
            spec.path, revision=spec.revision, allow_patterns=patterns, local_files_only=not spec.fetch
        )
    except LocalEntryNotFoundError:
        hint = "could not be fetched" if spec.fetch else "is not on this machine; set `fetch: true` to download it"
        raise CheckpointError(f"model {spec.name}: {spec.path} {hint}") from None
    except HFValidationError:
        raise CheckpointError(f"model {spec.name}: {spec.path} is neither a folder nor a hub id") from None
    except HfHubHTTPError as error:
        raise CheckpointError(f"model {spec.name}: {spec.path} could not be fetched: {_short(error)}") from None
    return Path(found)


def denoiser_revision(spec: ModelSpec) -> str:
    """Return the digest of what decides what a model's lanes compute.  Raises CheckpointError."""
    try:
        return denoiser_digest(own_folder(spec, *DENOISER))
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {error}") from None


def load_scheduler(spec: ModelSpec, folder: Path) -> Any:
    """Return a model's flow-match scheduler, from its config alone."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = read_json(spec, folder / "scheduler" / "scheduler_config.json")
    if config.get("_class_name") != "FlowMatchEulerDiscreteScheduler":
        raise CheckpointError(
            f"model {spec.name}: {folder / 'scheduler'} holds {config.get('_class_name')}, "
            "FlowMatchEulerDiscreteScheduler is needed"
        )
    return FlowMatchEulerDiscreteScheduler.from_config(config)


def pixels_per_latent(spec: ModelSpec, folder: Path) -> int:
    """Return the pixels per side of a latent, from the VAE's config."""
    blocks = setting(spec, folder / "vae" / "config.json", "block_out_channels", list)
    return int(2 ** (len(blocks) - 1))


def read_json(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.  Raises CheckpointError."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"model {spec.name}: {path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"model {spec.name}: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"model {spec.name}: {path} holds no JSON object")
    return content


def setting(spec: ModelSpec, path: Path, key: str, kind: type) -> Any:
    """Return one value of a JSON file.  Raises CheckpointError if it is missing or of another type."""
    value = read_json(spec, path).get(key)
    if not isinstance(value, kind):
        raise CheckpointError(f"model {spec.name}: {path} lacks `{key}`, of type {kind.__name__}")
    return value


def _short(error: Exception) -> str:
    """Return a library's error message as one line of bounded length."""
    return " ".join(str(error).split())[:300]


def _check_files(spec: ModelSpec, folder: Path) -> None:
    """Raise CheckpointError for a folder without safetensors, or with a truncated or invalid one."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"model {spec.name}: {folder} holds no .safetensors file")
    for file in files:
        try:
            with safe_open(file, "pt"):  # maps the file and reads its header, no weights
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"model {spec.name}: {file} is damaged or incomplete: {_short(error)}") from None


def load_module(spec: ModelSpec, folder: Path, name: str, cls: Any) -> Any:
    """Load one component's module onto its device; every weight comes from a safetensors file."""
    dtype = resolve_dtype(spec)
    config = read_json(spec, folder / name / "config.json")
    found = config.get("_class_name") or (config.get("architectures") or ["an unnamed class"])[0]
    if found != cls.__name__:
        raise CheckpointError(f"model {spec.name}: {folder / name} holds {found}, {cls.__name__} is needed")
    _check_files(spec, folder / name)
    try:
        module, info = cls.from_pretrained(
            folder / name,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed in `info`, and refused below in our own words
        )
    except UNREADABLE as error:
        raise CheckpointError(f"model {spec.name}: {folder / name} does not load: {_short(error)}") from None
    for weight, has, needed in sorted(info["mismatched_keys"]):
        shapes = f"has the shape {list(has)}, {list(needed)} is needed"
        raise CheckpointError(f"model {spec.name}: {folder / name}: weight {weight} {shapes}")
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise CheckpointError(f"model {spec.name}: {folder / name} lacks weight {missing[0]}{more}")
    if name == DENOISER[0]:
        _derive(spec, folder, module)
    return module.to(spec.device).eval().requires_grad_(False)


def _derive(spec: ModelSpec, base_folder: Path, module: Any) -> None:
    """Give a base's denoiser the weights of the derived model that is to be loaded, if it is one."""
    folder = own_folder(spec, *DENOISER)
    origin = _origin(spec, folder)
    if origin is None:
        return
    found = weights_digest(base_folder, DENOISER)
    if found != origin.weights:
        raise CheckpointError(
            f"model {spec.name}: {folder} is derived from other weights than {origin.path} has now: from "
            f"{origin.weights[:12]}, and those are {found[:12]}; take the {origin.path} it was made of, or make it anew"
        )
    try:
        apply_difference(module, folder / DIFFERENCE, origin.unchanged)
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {_short(error)}; copy or make it anew") from None


def _origin(spec: ModelSpec, folder: Path) -> Origin | None:
    try:
        return origin_of(folder)
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {_short(error)}; copy or make it anew") from None


def load_tokenizer(spec: ModelSpec, folder: Path, name: str) -> Any:
    """Load one component's tokenizer."""
    from transformers import AutoTokenizer

    if not (folder / name).is_dir():
        raise CheckpointError(f"model {spec.name}: {folder / name} is missing")
    if not any((folder / name / file).is_file() for file in VOCABULARIES):  # transformers would make an empty one
        raise CheckpointError(f"model {spec.name}: {folder / name} holds none of {', '.join(VOCABULARIES)}")
    try:
        return AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
    except UNREADABLE as error:
        raise CheckpointError(f"model {spec.name}: {folder / name} does not load: {_short(error)}") from None
