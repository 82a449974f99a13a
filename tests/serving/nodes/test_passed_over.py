"""Files as sites name them: each is an adapter, or lists and errors say why not, and any can be registered."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from lego_serve.core.nodes.requests import ListAdapterNames, ListAdapters, RegisterAdapter
from lego_serve.errors import NotFound
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.nodes import BYTES, command, load

NAMES = (
    "PixelArt_XL",
    "style.v1.5",
    "My Style v1",
    "Studio (Anime) [v2]",
    "naïve-strich",
    "+detail",
    "墨絵\u3000筆",
    "x" * 100,
    ".hidden",
)


@pytest.fixture
def downloads(root: Path) -> Path:
    """The root with files of such names, and things that are no adapters."""
    for name in NAMES:
        shutil.copy(root / "image.safetensors", root / f"{name}.safetensors")
    shutil.copy(root / "image.safetensors", root / "capitals.SafeTensors")
    (root / "old.ckpt").write_bytes(b"x")
    (root / "Preview.png").write_bytes(b"x")
    (root / "README.md").write_text("x")
    (root / "link.safetensors").symlink_to(root / "image.safetensors")
    return root


async def test_a_list_tells_of_every_file_that_is_no_adapter(
    spec: ModelSpec, downloads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its path and why, as the log does at the start; images and notes are not meant as adapters."""
    with caplog.at_level(logging.WARNING, "lego_serve.nodes"):
        node = LoraNode(spec, LoraOptions((downloads,), BYTES, registry_limit=9))
    reply = await command(node, ListAdapters())
    reasons = {file.path: file.reason for file in reply.passed_over}
    assert set(reply.cards) == {"image", "both"}
    assert set(reasons) == {f"{name}.safetensors" for name in NAMES} | {
        "capitals.SafeTensors",
        "old.ckpt",
        "link.safetensors",
        "sub/other.safetensors",
    }
    assert reasons["My Style v1.safetensors"] == (
        "Its name is not 1 to 64 of a-z, 0-9, _ and -: register it by its path, under a name such as my-style-v1."
    )
    assert "does not end in .safetensors" in reasons["old.ckpt"]
    assert "is a link" in reasons["link.safetensors"]
    assert "lies in a folder" in reasons["sub/other.safetensors"]
    assert all(any(path in record.getMessage() for record in caplog.records) for path in reasons)


async def test_any_file_is_registered_under_a_plain_name(spec: ModelSpec, downloads: Path) -> None:
    """As it is called; it is passed over no more."""
    node = LoraNode(spec, LoraOptions((downloads,), BYTES, registry_limit=99))
    paths = [f"{name}.safetensors" for name in NAMES] + ["capitals.SafeTensors", "sub/other.safetensors"]
    for index, path in enumerate(paths):
        await command(node, RegisterAdapter(f"mine-{index}", path))
    assert len({(await load(node, f"mine-{index}"))[0].sha256 for index in range(len(paths))}) == 2
    passed_over = {file.path for file in (await command(node, ListAdapters())).passed_over}
    assert passed_over == {"old.ckpt", "link.safetensors"}
    assert len((await command(node, ListAdapterNames())).cards) == 2 + len(paths)


async def test_an_unknown_name_is_told_of_the_file_that_is_meant(spec: ModelSpec, downloads: Path) -> None:
    """And how to use it."""
    node = LoraNode(spec, LoraOptions((downloads,), BYTES))
    for name in ("pixelart_xl", "my-style-v1", "My Style v1"):
        with pytest.raises(NotFound, match=r"is passed over: .* register it by its path, under a name such as"):
            await load(node, name)


async def test_the_second_of_two_files_of_one_name_is_told_of(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """In another root, and beside a folder of diffusers."""
    (tmp_path / "second").mkdir()
    shutil.copy(root / "image.safetensors", tmp_path / "second" / "both.safetensors")
    (root / "image").mkdir()
    shutil.copy(root / "image.safetensors", root / "image" / "pytorch_lora_weights.safetensors")
    node = LoraNode(spec, LoraOptions((root, tmp_path / "second"), BYTES))
    reasons = {file.path: file.reason for file in (await command(node, ListAdapters())).passed_over}
    assert "has an adapter both, which comes first" in reasons["both.safetensors"]
    assert "has an adapter image" in reasons["image/pytorch_lora_weights.safetensors"]


async def test_a_name_that_is_no_text_is_told_without_its_bytes(spec: ModelSpec, root: Path) -> None:
    """It cannot be registered, and breaks no answer."""
    shutil.copy(root / "image.safetensors", os.fsencode(root) + b"/bad\xff\x1b[31m.safetensors")
    node = LoraNode(spec, LoraOptions((root,), BYTES))
    [file] = [one for one in (await command(node, ListAdapters())).passed_over if one.path.startswith("bad")]
    assert file.path == "bad??[31m.safetensors"
    assert "rename it" in file.reason
