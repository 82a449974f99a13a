"""An adapter's file is replaced under its name: the next request has the new weights, in every replica and cache."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lego_serve.core.caching.file_version import FileVersion
from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput, LoadAdaptersOutput
from lego_serve.core.nodes.requests import ListAdapters, ShowAdapter
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.lora.adapters import diffusers_names, products, saved
from tests.support.nodes import BYTES, backbone_node, command, denoised, encoded, latents_of, load, resolved, text_node

FIXED_S = 1_700_000_000  # the time that files of an image or an archive have
Replace = Callable[[Path, Path], object]


def renamed_over(source: Path, file: Path) -> None:
    """As most programs save."""
    part = file.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(file)


def renamed_over_with_time(source: Path, file: Path) -> None:
    """As rsync -t does."""
    part = file.with_suffix(".part")
    shutil.copy2(source, part)
    part.replace(file)


def removed_and_moved(source: Path, file: Path) -> None:
    """As mv does, of a file that has not been written since."""
    file.unlink()
    shutil.copy2(source, source.with_suffix(".copy")).rename(file)


WAYS: dict[str, Replace] = {
    "written in place": lambda source, file: file.write_bytes(source.read_bytes()),
    "copied with its time": shutil.copy2,
    "renamed over": renamed_over,
    "renamed over with its time": renamed_over_with_time,
    "moved there": removed_and_moved,
}


@pytest.fixture
def versions(base: BaseLayers, tmp_path: Path) -> tuple[Path, Path]:
    """Two trainings of one adapter for text encoders and denoiser, of one size and one time."""
    made = tuple(saved(diffusers_names(products(base, seed, strength=0.3)), tmp_path, f"v{seed}") for seed in (1, 2))
    for path in made:
        os.utime(path, (FIXED_S, FIXED_S))
    assert made[0].stat().st_size == made[1].stat().st_size
    return made[0], made[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root with nothing in it."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


class Pipeline:
    """A LoRA node, and two replicas of each node that uses it."""

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self.lora_node = LoraNode(spec, LoraOptions((folder,), 1 << 24))
        self.texts = [text_node(spec, 1, self.lora_node) for _ in range(2)]
        self.backbones = [backbone_node(spec, self.lora_node) for _ in range(2)]

    async def made(self, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """What each replica makes of an adapter: an encoded prompt, and latents of a plain one."""
        found = []
        for text, backbone in zip(self.texts, self.backbones, strict=True):
            adapters = LoadAdaptersOutput(await resolved(self.lora_node, name))
            cond = await encoded(text, "a red circle", adapters)
            plain = await encoded(text, "a red circle")
            request = DenoiseInput(plain, 96, 96, 2, guidance=1.0, seed=3, n=1, adapters=adapters)
            latents = latents_of(await denoised(backbone, NodeCall(request)))
            found.append((np.concatenate([np.ravel(cond.tokens), np.ravel(cond.pooled)]), latents))
        return found


async def test_the_next_request_has_the_new_weights_however_they_came(
    spec: ModelSpec, versions: tuple[Path, Path], folder: Path
) -> None:
    """In both replicas of text encoder and denoiser, whose caches know the old ones, prompts included."""
    pipeline, file = Pipeline(spec, folder), folder / "mine.safetensors"
    for index, version in enumerate(versions):
        shutil.copyfile(version, folder / f"right{index}.safetensors")
    right = [(await pipeline.made(f"right{index}"))[0] for index in range(2)]
    assert all(not np.array_equal(old, new) for old, new in zip(*right, strict=True))
    for way, replace in WAYS.items():
        for index, version in enumerate((*versions, *versions)):
            if file.exists():
                replace(version, file)
            else:
                shutil.copy2(version, file)
            for made in await pipeline.made("mine"):
                for one, other in zip(made, right[index % 2], strict=True):
                    assert np.array_equal(one, other), (way, index)


class Clock:
    """A file system whose times stand still, at ``changed_ns``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changed_ns: int) -> None:
        self.hashed = 0
        version, content_hash = FileVersion(1, 2, 3, 4, changed_ns), AdapterRegistry.content_hash

        def counted(registry: AdapterRegistry, name: str) -> str | None:
            self.hashed += 1
            return content_hash(registry, name)

        monkeypatch.setattr(AdapterRegistry, "version", lambda registry, name: version)
        monkeypatch.setattr(AdapterRegistry, "content_hash", counted)


async def test_a_write_in_the_tick_of_the_last_one_is_found_by_the_hash(
    spec: ModelSpec, versions: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is that of the file that was read."""
    monkeypatch.setattr("lego_serve.core.caching.file_version.SETTLE_S", 3600.0)
    clock, file = Clock(monkeypatch, time.time_ns()), folder / "mine.safetensors"
    node = LoraNode(spec, LoraOptions((folder,), BYTES))
    hashes = []
    for version in versions:
        shutil.copyfile(version, file)
        hashes.append((await load(node, "mine"))[0].sha256)
    assert hashes[0] != hashes[1]
    assert clock.hashed > 0


async def test_an_old_file_is_not_hashed_again(
    spec: ModelSpec, versions: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where times cannot be trusted either, showing the adapter reads its file anew, and requests after it know."""
    clock, file = Clock(monkeypatch, FIXED_S * 10**9), folder / "mine.safetensors"
    node = LoraNode(spec, LoraOptions((folder,), BYTES))
    shutil.copyfile(versions[0], file)
    [before] = await load(node, "mine")
    shutil.copyfile(versions[1], file)
    assert (await load(node, "mine"))[0].sha256 == before.sha256
    shown = (await command(node, ShowAdapter("mine"))).cards["mine"]
    assert (await load(node, "mine"))[0].sha256 == shown.sha256 != before.sha256
    assert (await command(node, ListAdapters())).cards["mine"].sha256 == shown.sha256
    assert clock.hashed == 0


async def test_a_version_that_has_been_seen_for_long_enough_is_hashed_once_more(
    spec: ModelSpec, versions: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the file system's clock is ahead of this machine's."""
    clock = Clock(monkeypatch, time.time_ns() + 3600 * 10**9)
    monkeypatch.setattr("lego_serve.core.caching.file_version.SETTLE_S", 0.0001)
    shutil.copyfile(versions[0], folder / "mine.safetensors")
    node = LoraNode(spec, LoraOptions((folder,), BYTES))
    for _ in range(4):
        await load(node, "mine")
    assert clock.hashed == 1
