"""Adapters and ControlNets, served: Ray, every node, a gateway, over HTTP."""

import base64
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from lego_serve.demo import descendants
from lego_serve.models.adapter_loading import base_layers
from lego_serve.models.spec import ModelSpec
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.miniatures import control_miniature
from tests.adapters import diffusers_names, kohya_names, products
from tests.e2e.test_server import PROMPT, pixels
from tests.servers import Server, running

pytestmark = pytest.mark.ray
STEPS = 12
STORAGE_S = 0.3
CONFIG = """
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{cpus: 0.1}}
      backbone: {{cpus: 0.4}}
      vae: {{cpus: 0.1}}
    adapters: {{roots: ["{roots}"], storage_s: {storage_s}, registry_limit: 1}}
    controlnets:
      near: {{path: "{net}"}}
      far: {{path: "{net}", placement: remote, node: {{replicas: {{min: 2, max: 2}}}}}}
      streamed: {{path: "{other}", placement: remote, stream_blocks: true}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters and ControlNets of random weights for lego-tiny."""
    folder = tmp_path_factory.mktemp("addons")
    roots = folder / "adapters"
    (roots / "more").mkdir(parents=True)
    base = base_layers(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0))
    for seed in range(4):
        made = products(base, seed, rank=2 + seed, only="transformer." if seed < 3 else "")
        save_file(
            {
                name: tensor.contiguous()
                for name, tensor in (diffusers_names if seed % 2 else kohya_names)(made).items()
            },
            roots / f"style-{seed}.safetensors",
        )
    (roots / "broken.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, roots / "strange.safetensors")
    save_file(
        {n: t.contiguous() for n, t in diffusers_names(products(base, 9, only="attn.to_q")).items()},
        roots / "more" / "late.safetensors",
    )
    transformer = SD3Transformer2DModel.from_pretrained(WEIGHTS / "transformer")
    for seed, name in enumerate(("net", "other")):
        torch.manual_seed(seed)
        net = control_miniature(transformer)
        net.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def addons(folder: Path) -> Iterator[Server]:
    """A server with them."""
    text = CONFIG.format(roots=folder / "adapters", storage_s=STORAGE_S, net=folder / "net", other=folder / "other")
    with running(folder, 1, text=text) as started:
        yield started


def outline(width: int = 128, height: int = 128) -> str:
    """A control picture as base64."""
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).ellipse((20, 30, 80, 90), outline="white", width=3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def ask(server: Server, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    said = {"prompt": PROMPT, "num_inference_steps": STEPS, "seed": 1} | body
    return httpx2.post(f"{server.url}/v1/images/generations", json=said, timeout=300)


def made(server: Server, **body: object) -> tuple[np.ndarray, dict]:
    """The picture of one that ends well, and what is said of it."""
    answer = ask(server, **body)
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["data"][0]), answer.json()["lego"]


def style(number: int, **more: object) -> list[dict]:
    """An adapter."""
    return [{"name": f"style-{number}"} | more]


def net(name: str, **more: object) -> list[dict]:
    """A ControlNet with a picture."""
    return [{"name": name, "image": outline()} | more]


def test_an_adapter_changes_the_picture_and_is_at_hand_the_second_time(addons: Server) -> None:
    """The answer tells of its load, which overlaps nothing it need not wait for; scale 0 is the model itself."""
    plain, lego = made(addons)
    assert "adapters" not in lego
    first, cold = made(addons, lora=style(0))
    [used] = cold["adapters"]
    assert (used["name"], used["cache"], used["early_steps"]) == ("style-0", "miss", 0)
    assert STORAGE_S <= used["load_s"] < 20
    assert cold["nodes"]["adapters"] < STORAGE_S  # what it is was told long before it had come
    again, warm = made(addons, lora=style(0))
    assert (warm["adapters"][0]["cache"], warm["adapters"][0]["load_s"]) == ("hit", 0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, plain)
    assert np.array_equal(made(addons, lora=style(0, scale=0))[0], plain)
    page = httpx2.get(f"{addons.url}/metrics").text
    assert 'lego_serve_adapter_loads_total{model="lego-tiny"} 1.0' in page
    assert 'lego_serve_adapter_hits_total{model="lego-tiny"} 2.0' in page


def test_requests_with_different_adapters_run_together_to_the_bits_of_each_alone(addons: Server) -> None:
    """Adapters of the text encoder too, several in one request, a ControlNet near and far, and none."""
    bodies: list[dict] = [
        {},
        {"lora": style(1)},
        {"lora": style(2, scale=0.5)},
        {"lora": style(3)},
        {"lora": [*style(1, end=0.5), *style(2, start=0.5)]},
        {"controlnet": net("near"), "lora": style(1)},
        {"controlnet": net("far")},
        {"controlnet": [*net("far", weight=0.5), *net("streamed", end=0.5)]},
    ]
    alone = [made(addons, **body)[0] for body in bodies]
    found: dict[int, np.ndarray] = {}

    def one(index: int) -> None:
        found[index] = made(addons, **bodies[index])[0]

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(alone):
        assert np.array_equal(found[index], picture), bodies[index]
        assert not any(np.array_equal(picture, other) for other in alone[:index])


def test_a_controlnet_gives_the_same_picture_wherever_it_runs(addons: Server) -> None:
    """In the backbone's process and in its own deployment; the answer says which were used."""
    plain, _ = made(addons)
    near, lego = made(addons, controlnet=net("near"))
    assert lego["controlnets"] == ["near"]
    assert not np.array_equal(near, plain)
    assert np.array_equal(made(addons, controlnet=net("far"))[0], near)
    assert np.array_equal(made(addons, controlnet=net("far", weight=0))[0], plain)


def test_what_is_wrong_with_adapters_is_told_in_one_line(addons: Server) -> None:
    """Unknown is 404, damaged or for another model is 400; no path comes back and the next request is served."""
    for name, status, code in (
        ("nobody", 404, "adapter_not_found"),
        ("broken", 400, "invalid_adapter"),
        ("strange", 400, "invalid_adapter"),
    ):
        answer = ask(addons, lora=[{"name": name}])
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, "lora")
        assert "/" not in error["message"]
    assert ask(addons, controlnet=net("nobody")).status_code == 404
    made(addons, lora=style(0))


def test_an_operator_registers_an_adapter_under_a_root(addons: Server) -> None:
    """It serves at once; the registry is bounded, and what was registered can be removed."""
    url = f"{addons.url}/v1/admin/adapters"
    for path, status in (("../late.safetensors", 400), ("/etc/passwd", 400), ("more/none.safetensors", 404)):
        assert httpx2.post(url, json={"id": "late", "path": path}, timeout=30).status_code == status
    assert httpx2.post(url, json={"id": "late", "path": "more/late.safetensors"}, timeout=30).status_code == 200
    full = httpx2.post(url, json={"id": "later", "path": "more/late.safetensors"}, timeout=30)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "registry_full")
    listed = {card["id"]: card["registered"] for card in httpx2.get(url, timeout=30).json()["data"]}
    assert (listed["late"], listed["style-0"]) == (True, False)
    made(addons, lora=[{"name": "late"}])
    assert httpx2.delete(f"{url}/late", timeout=30).status_code == 200
    assert ask(addons, lora=[{"name": "late"}]).status_code == 404


def test_lanes_go_on_when_a_remote_controlnet_dies(addons: Server) -> None:
    """kill -9 of one of its two replicas in the middle of the work costs no request and no bit."""
    body = {"controlnet": net("far"), "num_inference_steps": 60}
    wanted = made(addons, **body)[0]
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(made(addons, **body)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    replicas = controlnets(addons, "far")
    assert len(replicas) == 2
    os.kill(replicas[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(picture, wanted) for picture in found)


def controlnets(server: Server, name: str) -> list[int]:
    """The processes of a ControlNet's replicas."""
    found = []
    for pid in descendants(server.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::") and f"{name}.controlnet" in title:
            found.append(pid)
    return found
