"""A server with adapters and ControlNets of random weights, and how tests ask it."""

import base64
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import httpx2
import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.process.tree import descendants
from lego_serve.zoo.export import WEIGHTS
from loadgen.addons.storage import SLOW_STORAGE
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, running
from tests.support.lora.adapters import Tensors, diffusers_names, kohya_names, products
from tests.support.tiny_models import control_miniature

STEPS = 12
STORAGE_S = 0.3
STYLES = 16
CONFIG = """
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    dtype: float32  # weights changed in place and products added are near each other only where little is rounded
    nodes:
      text_encoder: {{cpus: 0.1}}
      backbone: {{cpus: 0.4}}
      vae: {{cpus: 0.1}}
    adapters: {{roots: ["{roots}"], registry_limit: 1}}
    controlnet_cache_bytes: 1  # the one here is loaded for each request that finds it unused
    controlnets:
      near: {{path: "{folder}/net"}}
      far: {{path: "{folder}/net", placement: remote, node: {{replicas: {{min: 2, max: 2}}}}}}
      lonely: {{path: "{folder}/other", placement: remote, stream_blocks: true}}
  patched:  # the same, but that it changes weights in place
    path: builtin:lego-tiny
    max_sequence_length: 0
    dtype: float32
    nodes: {{backbone: {{cpus: 0.3}}}}
    adapters: {{roots: ["{roots}"], mode: patched}}
workflows: [lego-tiny, lego-tiny-lora, lego-tiny-controlnet, lego-tiny-controlnet-lora, patched.yaml]
"""


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server with what lies in the folder; the workflow `patched` is `lego-tiny-lora` with another backbone."""
    text = (
        (resources.files("lego_serve") / "workflows" / "lego-tiny-lora.yaml")
        .read_text()
        .replace("name: lego-tiny-lora", "name: patched")
    )
    for before in ("load_adapters, model: ", "use: denoise\n    model: "):
        assert f"{before}lego-tiny" in text
        text = text.replace(f"{before}lego-tiny", f"{before}patched")
    (folder / "patched.yaml").write_text(text)
    config = CONFIG.format(roots=folder / "adapters", folder=folder)
    slow = {"LOADGEN_ADAPTER_LOAD_S": str(STORAGE_S)}
    with running(folder, 1, faults=SLOW_STORAGE, text=config, variables=slow) as started:
        yield started


def fill(folder: Path) -> None:
    """Sound adapters and unsound ones, and two ControlNets."""
    roots = folder / "adapters"
    (roots / "more").mkdir(parents=True)
    base = base_layers(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0))
    for seed in range(STYLES):
        made = products(base, seed, rank=2 + seed % 4, only="" if seed == 3 else "transformer.")
        write((diffusers_names if seed % 2 else kohya_names)(made), roots / f"style-{seed}.safetensors")
    write(diffusers_names(products(base, 99, only="attn.to_q")), roots / "more" / "late.safetensors")
    _fill_unsound(base, roots)
    transformer = SD3Transformer2DModel.from_pretrained(WEIGHTS / "transformer")
    for seed, name in enumerate(("net", "other")):
        torch.manual_seed(seed)
        control_miniature(transformer).save_pretrained(folder / name)


def _fill_unsound(base: BaseLayers, roots: Path) -> None:
    (roots / "broken.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    write({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, roots / "strange.safetensors")
    for name, value in (("nan", float("nan")), ("huge", 1e6)):
        bad = diffusers_names(products(base, 7, only="attn.to_q"))
        next(iter(bad.values()))[0, 0] = value
        write(bad, roots / f"{name}.safetensors")
    other = {"modelspec.architecture": "flux-1-dev/lora"}
    write(diffusers_names(products(base, 7, only="attn.to_q")), roots / "other-model.safetensors", other)


def write(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """A file of these tensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def outline(width: int = 128, height: int = 128) -> str:
    """A control image as base64."""
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).ellipse((20, 30, 80, 90), outline="white", width=3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def ask(server: Server, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    request = {"prompt": PROMPT, "num_inference_steps": STEPS, "seed": 1} | body
    return httpx2.post(f"{server.url}/v1/images/generations", json=request, timeout=300)


def made(server: Server, **body: object) -> tuple[np.ndarray, dict]:
    """The image of one that ends well, and its entry in the response."""
    answer = ask(server, **body)
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["data"][0]), answer.json()["lego"]


class Together:
    """Requests at the same time, from threads."""

    def __init__(self, server: Server, bodies: Sequence[dict]) -> None:
        self.answers: dict[int, httpx2.Response] = {}

        def one(index: int) -> None:
            self.answers[index] = ask(server, **bodies[index])

        self._threads = [threading.Thread(target=one, args=(index,)) for index in range(len(bodies))]
        for thread in self._threads:
            thread.start()

    def images(self) -> list[np.ndarray]:
        """All of them, when they have ended well."""
        for thread in self._threads:
            thread.join()
        for answer in self.answers.values():
            assert answer.status_code == 200, answer.text
        return [pixels(answer.json()["data"][0]) for _, answer in sorted(self.answers.items())]


def style(number: int, **more: object) -> list[dict]:
    """An adapter."""
    return [{"name": f"style-{number}"} | more]


def net(name: str, **more: object) -> list[dict]:
    """A ControlNet with an image."""
    return [{"name": name, "image": outline()} | more]


def replicas(server: Server, app: str) -> list[int]:
    """The processes of a deployment's replicas."""
    found = []
    for pid in descendants(server.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::") and app in title:
            found.append(pid)
    return found
