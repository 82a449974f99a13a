"""A tier on a checkpoint draws what its student draws as a model of its own, and no other weights ever stand in."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lego_serve.core.addons import ControlNetInput
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import (
    DenoiseInput,
    DenoiseOutput,
    EncodeControlsOutput,
    EncodeImageOutput,
)
from lego_serve.core.tiers.book import TierBook
from lego_serve.errors import CheckpointError, NodeError, RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.serving.nodes.backbone import BackboneNode
from tests.support.nodes import backbone_node, denoised, encoded, latents_of, text_node
from tests.support.students.derived import derive
from tests.support.students.tiers import TURBO, with_turbo


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base with the tier, and the student that is derived from it."""
    root = tmp_path_factory.mktemp("tiers")
    base = Path(shutil.copytree(tiny_folder, root / "base"))
    student = derive(base, root / "student")
    with_turbo(base, student)
    return base, student


def spec(path: Path) -> ModelSpec:
    """A model in fp32."""
    return ModelSpec("tiny", str(path), dtype="float32", max_sequence_length=0)


def turbo_node(folders: tuple[Path, Path]) -> BackboneNode:
    """What computes on the checkpoint of the base's tier."""
    base, student = folders
    book = read_book(str(base)).of_checkpoint("turbo")
    return backbone_node(spec(student), tiers=book, checkpoint_tier="turbo")


async def request(folders: tuple[Path, Path], **fields: Any) -> DenoiseInput:
    """An image of 96 x 96 in 20 steps, guided away from nothing."""
    text = text_node(spec(folders[0]), 4)
    cond, negative = await encoded(text, "a red circle"), await encoded(text, "")
    asked: dict[str, Any] = {"cond": cond, "negative": negative, "steps": 20, "guidance": 4.0, "seed": 7, "n": 2}
    return DenoiseInput(width=96, height=96, **asked | fields)


async def run(node: BackboneNode, asked: DenoiseInput) -> NodeResult[DenoiseOutput]:
    """The result of a call."""
    return await denoised(node, NodeCall(asked))


async def test_it_draws_what_the_student_draws_as_a_model_of_its_own(folders: tuple[Path, Path]) -> None:
    """Bit for bit, with its own guidance whatever is asked; the base's exact image is another."""
    base, student = folders
    own = TierBook((replace(TURBO, steps=4, checkpoint=None),), weights=denoiser_digest(student))
    alone = backbone_node(spec(student), tiers=own)
    expected = latents_of(await run(alone, await request(folders, steps=4, guidance=1.0, tier="turbo")))
    node = turbo_node(folders)
    for guidance in (4.0, 9.0, 0.5):
        result = await run(node, await request(folders, guidance=guidance, tier="turbo"))
        assert np.array_equal(latents_of(result), expected)
        assert result.stats.tier is not None
        assert (result.stats.tier.tier, result.stats.tier.evaluations, result.stats.tier.steps) == ("turbo", 4, 20)
        assert result.stats.tier.saved_ratio == pytest.approx(0.8 if guidance == 0.5 else 0.9), "with the branch"
    exact = latents_of(await run(backbone_node(spec(base)), await request(folders)))
    assert np.abs(exact - expected).max() > 0.01


async def test_a_call_for_other_weights_is_an_error(folders: tuple[Path, Path]) -> None:
    """On either side: the base has the tier in its book, and the checkpoint is not the model."""
    ours = backbone_node(spec(folders[0]), tiers=read_book(str(folders[0])))
    with pytest.raises(NodeError, match="needs other weights, those of tier turbo, than are here, the model's own"):
        (await run(ours, await request(folders, tier="turbo"))).reply  # noqa: B018
    node = turbo_node(folders)
    with pytest.raises(NodeError, match="needs other weights, the model's own, than are here, those of tier turbo"):
        (await run(node, await request(folders, tier="exact"))).reply  # noqa: B018
    with pytest.raises(RequestError, match="not tuned for 21 steps"):
        (await run(node, await request(folders, tier="turbo", steps=21))).reply  # noqa: B018


async def test_a_request_that_names_no_tier_runs_it_where_it_is_the_default(folders: tuple[Path, Path]) -> None:
    """For then it is sent here."""
    node = turbo_node(folders)
    named = latents_of(await run(node, await request(folders, tier="turbo")))
    assert np.array_equal(latents_of(await run(node, await request(folders))), named)


async def test_what_was_not_tuned_is_refused_here_too(folders: tuple[Path, Path]) -> None:
    """Whoever sends it."""
    latents = np.zeros((8, 12, 12), np.float32)
    image = EncodeImageOutput(latents, latents)
    controls = EncodeControlsOutput((ControlNetInput("net", latents, 1.0, 0.0, 1.0),))
    node = turbo_node(folders)
    for fields, said in (
        ({"init": image}, "images to start from"),
        ({"reference": image}, "reference images"),
        ({"controls": controls}, "ControlNets"),
    ):
        with pytest.raises(RequestError, match=f"not tuned with {said}"):
            (await run(node, await request(folders, tier="turbo", **fields))).reply  # noqa: B018


def test_a_checkpoint_of_other_weights_does_not_start(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither where the book is read nor at the replica."""
    base, student = folders
    book = read_book(str(base)).of_checkpoint("turbo")
    other = derive(base, tmp_path / "other", seed=2)
    with pytest.raises(CheckpointError, match="model tiny: its tiers were tuned on other weights"):
        backbone_node(spec(other), tiers=book, checkpoint_tier="turbo")
    copy = Path(shutil.copytree(base, tmp_path / "base"))
    with_turbo(copy, student)
    shutil.copy(other / "difference.safetensors", tmp_path / "kept")
    moved = tmp_path / "student"
    shutil.copytree(student, moved)
    with_turbo(copy, moved)
    assert read_book(str(copy)).names == ("exact", "fast", "turbo")
    shutil.copy(tmp_path / "kept", moved / "difference.safetensors")
    with pytest.raises(ValueError, match=r"its tier turbo: .*student has other weights than those that were tuned"):
        read_book(str(copy))
    shutil.rmtree(moved)
    with pytest.raises(ValueError, match=r"its tier turbo runs .*student, which is not there; add it, or take"):
        read_book(str(copy))


def test_a_book_finds_a_checkpoint_beside_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Where its path begins with a dot."""
    base = Path(shutil.copytree(folders[0], tmp_path / "base"))
    derive(base, base / "turbo")
    with_turbo(base, base / "turbo")
    file = base / "tiers.json"
    file.write_text(file.read_text().replace(str(base / "turbo"), "./turbo"))
    assert read_book(str(base)).checkpoints["turbo"].path == str(base / "turbo")
