"""Pickles and other files that run something where they are opened, and where clients can send them."""

import base64
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.graphs import image_to_image, text_to_image

Sent = Mapping[str, Any]  # of a request: what httpx2 takes
Place = tuple[str, str]  # a method and the path of a route


class Malicious:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/lego-serve-was-unpickled",)


def torch_archive(inside: bytes) -> bytes:
    """A pickle in a zip, as torch saves it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", inside)
    return out.getvalue()


PROTOCOLS = [pickle.dumps(Malicious(), protocol) for protocol in range(6)]
NUMPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
HOSTILE = [*PROTOCOLS, torch_archive(pickle.dumps(Malicious())), NUMPY]
MEDIA = ("application/json", "application/octet-stream", "application/x-python-pickle", "")


def refused_bodies(content: bytes) -> dict[Place, list[Sent]]:
    """What each route that takes files, or bytes in a text, is to read and refuse, by its place."""
    text = base64.b64encode(content).decode()
    url = f"data:image/png;base64,{text}"
    net = {"name": "edges", "image": text}
    unit = {"model": "edges", "image": text, "module": "none"}
    drawn = {"prompt": "a", "width": 128, "height": 96, "steps": 4}
    file = ("a.png", content, "image/png")
    edits = "/v1/images/edits"
    upload = {"files": {"image": file}}
    graphs = [{"3": text}, {"3": {"class_type": text, "inputs": {}}}, text, _from_upload(text)]
    prompts: list[Sent] = [{"json": {"prompt": graph}} for graph in graphs]
    return {
        ("POST", "/v1/images/generations"): [
            {"json": {"prompt": "a", "controlnet": [net]}},
            {"json": {"prompt": "a", "lora": [{"name": text[:64]}]}},
        ],
        ("POST", edits): [
            {"data": {"prompt": "a"}, "files": {"image": file, "mask": file}},
            {"json": {"prompt": "a", "image": url}},
        ],
        ("POST", "/v1/jobs"): [
            {"json": {"endpoint": edits, "body": {"prompt": "a", "image": text}}},
            {"json": {"endpoint": edits, "body": {"prompt": "a", "image": url, "mask": url}}},
            {"json": {"workflow": text[:200], "inputs": {}}},
        ],
        ("POST", "/v1/templates"): [upload],
        ("POST", "/v1/templates/{template_id}/warm"): [{"json": {"sampler": text[:64]}}],
        ("POST", "/v1/admin/adapters"): [{"json": {"id": text[:64], "path": 5}}],
        ("PUT", "/v1/admin/nodes/{node}/replicas"): [{"json": {"min": text, "max": text}}],
        ("POST", "/sdapi/v1/txt2img"): [{"json": drawn | {"alwayson_scripts": {"controlnet": {"args": [unit]}}}}],
        ("POST", "/sdapi/v1/img2img"): [
            {"json": drawn | {"init_images": [text]}},
            {"json": drawn | {"init_images": [url], "mask": text}},
        ],
        **{("POST", f"{start}/prompt"): prompts for start in ("", "/api")},
        **{("POST", f"{start}/upload/image"): [upload] for start in ("", "/api")},
        **{("POST", f"{start}/upload/mask"): [upload] for start in ("", "/api")},
    }


def _from_upload(name: str) -> object:
    graph = image_to_image()
    graph["10"]["inputs"]["image"] = name
    return graph


def accepted_bodies(content: bytes) -> dict[Place, list[Sent]]:
    """Where such a text is a text like any other, or is passed over, and need not be refused."""
    text = base64.b64encode(content).decode()
    graph = text_to_image()
    graph["6"]["inputs"]["text"] = text[:200]
    return {
        ("POST", "/v1/images/generations"): [{"json": {"prompt": text[:500]}}],
        ("POST", "/v1/jobs"): [
            {"json": {"workflow": "lego-tiny", "inputs": {"prompt": "a"}, "metadata": {"a": text[:500]}}}
        ],
        ("POST", "/prompt"): [{"json": {"prompt": graph, "extra_data": {"extra_pnginfo": text}}}],
        ("POST", "/sdapi/v1/png-info"): [{"json": {"image": text}}],
        ("POST", "/sdapi/v1/options"): [{"json": {"sd_model_checkpoint": text}}],
    }
