"""A client sends pickles wherever bytes are taken: none is ever opened, and each is refused as what it is not."""

import base64
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.checkpoint import read_adapter_file


class Malicious:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/lego-serve-was-unpickled",)


def torch_archive() -> bytes:
    """A pickle in a zip, as torch saves it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", PICKLE)
    return out.getvalue()


PICKLE = pickle.dumps(Malicious())
PROTOCOLS = [pickle.dumps(Malicious(), protocol) for protocol in range(6)]
HOSTILE = [*PROTOCOLS, torch_archive(), b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"]
_opened: list[str] = []
_is_watching = False


def _audit(event: str, arguments: object) -> None:
    if _is_watching and event in ("pickle.find_class", "os.system"):
        _opened.append(event)


@pytest.fixture(autouse=True)
def opened() -> Iterator[list[str]]:
    """What was unpickled or run during a test: the interpreter itself tells."""
    global _is_watching
    if not getattr(sys, "_lego_audits", False):
        sys.addaudithook(_audit)  # one cannot be removed again
        sys._lego_audits = True  # type: ignore[attr-defined]
    _opened.clear()
    _is_watching = True
    yield _opened
    _is_watching = False


def test_the_watch_sees_a_pickle(opened: list[str]) -> None:
    """Or this file would show nothing."""
    assert pickle.loads(pickle.dumps(Path)) is Path
    assert opened


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_route_opens_a_pickle(client, opened: list[str], content: bytes) -> None:
    """As a body of any type, as an image, as a mask, as a control image, as a template, as an adapter's name."""
    text = base64.b64encode(content).decode()
    files = {"image": ("a.png", content, "image/png"), "mask": ("m.png", content, "image/png")}
    answers = [
        await client.post("/v1/images/generations", content=content, headers={"content-type": kind})
        for kind in ("application/json", "application/octet-stream", "application/x-python-pickle", "")
    ]
    answers += [
        await client.post("/v1/images/edits", data={"prompt": "a"}, files=files),
        await client.post("/v1/templates", files={"image": ("a.png", content, "image/png")}),
        await client.post("/v1/images/edits", json={"prompt": "a", "image": f"data:image/png;base64,{text}"}),
        await client.post(
            "/v1/images/generations", json={"prompt": "a", "controlnet": [{"id": "edges", "image": text}]}
        ),
        await client.post("/v1/images/generations", json={"prompt": "a", "lora": [{"name": text[:64]}]}),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers), [answer.status_code for answer in answers]
    assert not opened


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pt", "a.ckpt"])
def test_no_adapter_file_is_unpickled(tmp_path: Path, opened: list[str], content: bytes, name: str) -> None:
    """Whatever its name says."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidAdapter):
        read_adapter_file("a", tmp_path / name)
    assert not opened
