"""The first use of an adapter: its file is read beside everything else, once, and nothing of it is used before."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import DenoiseInput, DenoiseOutput, LoadAdaptersOutput, TextEncodeOutput
from lego_serve.errors import InvalidAdapter, NotFound
from lego_serve.models.lora.checkpoint import AdapterFile
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache
from lego_serve.serving.nodes import adapter_index
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.clocks import until
from tests.support.lora.adapters import diffusers_names, products, saved
from tests.support.nodes import backbone_node, denoised, encoded, latents_of, resolved, text_node

BYTES = 1 << 24
STEPS = 3


class Storage:
    """Files are read while the gate is open; how often each was."""

    def __init__(self) -> None:
        self.gate, self.reads = threading.Event(), list[str]()
        self.gate.set()
        self._read = AdapterRegistry.read

    def read(self, registry: AdapterRegistry, name: str) -> AdapterFile:
        """In place of the registry's."""
        assert self.gate.wait(60)
        self.reads.append(name)
        return self._read(registry, name)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """What all files are read from, whole; their headers come without it."""
    storage = Storage()
    monkeypatch.setattr(AdapterRegistry, "read", lambda registry, name: storage.read(registry, name))
    return storage


@pytest.fixture
def root(spec: ModelSpec, tmp_path: Path) -> Path:
    """Adapters: of the denoiser, of text encoders too, and one that is not finite."""
    base = base_layers(spec)
    image = diffusers_names(products(base, 1, only="transformer."))
    saved(image, tmp_path, "image")
    saved(diffusers_names(products(base, 2)), tmp_path, "both")
    name = next(iter(image))
    saved(image | {name: image[name] * float("nan")}, tmp_path, "nan")
    return tmp_path


class Family:
    """The nodes of one request."""

    def __init__(self, spec: ModelSpec, root: Path, node_bytes: int = BYTES, cache_bytes: int = BYTES) -> None:
        self.lora_node = LoraNode(spec, LoraOptions((root,), node_bytes))
        self.text = text_node(spec, 4, self.lora_node, cache_bytes)
        self.backbone = backbone_node(spec, self.lora_node, cache_bytes=cache_bytes)
        self.steps, step = 0, self.backbone._engine.step

        def counted(*plan: Any) -> Any:
            self.steps += 1
            return step(*plan)

        self.backbone._engine.step = counted  # type: ignore[method-assign]

    async def resolved(self, *names: str) -> LoadAdaptersOutput:
        """What `load_adapters` answers, which it does soon.  Raises its error."""
        return LoadAdaptersOutput(await asyncio.wait_for(resolved(self.lora_node, *names), 60))

    async def encoded(self, adapters: LoadAdaptersOutput) -> tuple[TextEncodeOutput, TextEncodeOutput]:
        """A prompt and the empty one."""
        cond, negative = await asyncio.gather(*(encoded(self.text, words, adapters) for words in ("a red circle", "")))
        return cond, negative

    async def denoised(
        self, adapters: LoadAdaptersOutput, conds: tuple[TextEncodeOutput, TextEncodeOutput]
    ) -> NodeResult[DenoiseOutput]:
        """Two images."""
        request = DenoiseInput(conds[0], 96, 96, STEPS, guidance=4.0, seed=3, n=2, negative=conds[1], adapters=adapters)
        return await denoised(self.backbone, NodeCall(request))

    async def emptied(self) -> None:
        """Until the engine's thread, which hears of it after the answer, has let go of all lanes."""
        await until(lambda: not self.backbone._engine.lanes)

    async def image(self, *names: str) -> np.ndarray:
        """The latents of a request."""
        adapters = await self.resolved(*names)
        answer = await self.denoised(adapters, await self.encoded(adapters))
        return latents_of(answer)


async def test_prompts_are_encoded_and_lanes_queue_while_a_file_is_read_for_the_first_time(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """No step runs before it is known to be sound; the image is that of an adapter that is at hand."""
    family = Family(spec, root)
    storage.gate.clear()
    adapters = await family.resolved("image")
    conds = await asyncio.wait_for(family.encoded(adapters), 60)
    waiting = asyncio.ensure_future(family.denoised(adapters, conds))
    await until(lambda: family.backbone._engine.lanes == 2)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert (family.backbone._engine.lanes, family.steps) == (2, 0)
    storage.gate.set()
    answer = await waiting
    [used] = answer.stats.adapters
    assert (used.hit, used.steps_without_adapter, used.steps_active) == (False, 0, STEPS)
    assert used.load_s >= 0.3
    assert np.array_equal(latents_of(answer), await family.image("image"))
    assert storage.reads == ["image"]


async def test_a_prompt_that_an_adapter_changes_waits_for_it_alone(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """That it changes prompts is told by the header."""
    family = Family(spec, root)
    storage.gate.clear()
    adapters = await family.resolved("image", "both")
    assert [adapter.has_text for adapter in adapters.adapters] == [False, True]
    waiting = asyncio.ensure_future(family.encoded(adapters))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    storage.gate.set()
    conds = await waiting
    again = await family.encoded(await family.resolved("image", "both"))
    assert all(np.array_equal(one.tokens, other.tokens) for one, other in zip(conds, again, strict=True))


async def test_what_is_wrong_with_a_files_values_ends_the_request_before_a_step_runs(
    spec: ModelSpec, root: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is refused at once, without another reading, for a while or until the file is another."""
    family = Family(spec, root)
    adapters = await family.resolved("image", "nan")
    answer = await family.denoised(adapters, await family.encoded(adapters))
    assert isinstance(answer.error, InvalidAdapter)
    assert (answer.error.status, answer.error.param) == (400, "lora[nan]")
    await family.emptied()
    assert family.steps == 0
    storage.gate.clear()
    with pytest.raises(InvalidAdapter, match="no finite numbers"):
        await family.resolved("nan")
    storage.gate.set()
    assert storage.reads.count("nan") == 1
    monkeypatch.setattr(adapter_index, "FAULT_S", 0.0)
    (root / "nan.safetensors").write_bytes((root / "nan.safetensors").read_bytes()[:-4])
    with pytest.raises(InvalidAdapter, match="ends within its tensors"):
        await family.resolved("nan")
    (root / "nan.safetensors").write_bytes((root / "both.safetensors").read_bytes())
    assert (await family.image("nan")).shape[0] == 2


async def test_what_a_header_tells_is_refused_before_anything_is_read(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """And a name that is none."""
    (root / "zip.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    family = Family(spec, root)
    storage.gate.clear()
    with pytest.raises(InvalidAdapter, match="zip"):
        await family.resolved("zip")
    with pytest.raises(NotFound, match="did you mean image"):
        await family.resolved("imag")
    storage.gate.set()
    assert storage.reads == []


async def test_a_file_that_changes_before_it_has_been_read_is_refused(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """Rather than that prompts are encoded with one content and images made with another."""
    lora_node = LoraNode(spec, LoraOptions((root,), BYTES))
    storage.gate.clear()
    adapters = await resolved(lora_node, "image")
    (root / "image.safetensors").write_bytes((root / "both.safetensors").read_bytes())
    storage.gate.set()
    with pytest.raises(InvalidAdapter, match="changed"):
        await AdapterCache(lora_node, ("transformer",), BYTES).take(adapters)
    [adapter] = await resolved(lora_node, "image")
    assert adapter.has_text


async def test_all_who_ask_for_an_adapter_first_share_its_reading(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """Also where nothing is kept."""
    family = Family(spec, root, node_bytes=0)
    storage.gate.clear()
    waiting = asyncio.gather(*(family.image("image") for _ in range(3)))
    await until(lambda: family.backbone._engine.lanes == 6)
    storage.gate.set()
    await waiting
    assert storage.reads == ["image"]


async def test_an_adapter_of_prompts_and_images_is_loaded_once_a_request_where_it_is_not_kept(
    spec: ModelSpec, root: Path, storage: Storage
) -> None:
    """It is held until both have it, and no longer."""
    family = Family(spec, root, node_bytes=0, cache_bytes=0)
    for count in (1, 2):
        await family.image("both")
        assert storage.reads == ["both"] * count
        assert family.lora_node._cache._loads == {}
