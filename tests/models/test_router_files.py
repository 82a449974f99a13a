"""The router beside a model's weights: read as it was written, and refused where it does not fit."""

import shutil
from pathlib import Path

import pytest
import torch

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.grids import Grid
from lego_serve.errors import CheckpointError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.registry import ModelSpec
from lego_serve.models.router_files import read_router, write_router
from lego_serve.models.tier_files import FILE, ROUTER, read_book, write_book
from lego_serve.models.weights_digest import DENOISER, weights_digest

DRAWN = BlockRouter.drawn(6, 128, seed=4)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder of its own."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def spec(folder: Path) -> ModelSpec:
    """The model of a folder."""
    return ModelSpec("m", str(folder), dtype="float32", max_sequence_length=0)


def test_a_router_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All weights of all blocks; in a few kilobytes a block."""
    file = tmp_path / ROUTER
    write_router(DRAWN, "abc", file)
    found = read_router(file, "abc")
    assert found.blocks == 6
    for one, other in zip(found.scorers, DRAWN.scorers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parts, other.parts, strict=True))
    assert file.stat().st_size < 5 * 10_000
    assert list(tmp_path.iterdir()) == [file]


def test_a_router_of_other_weights_is_refused(tmp_path: Path) -> None:
    """As a damaged file is, and none."""
    file = tmp_path / ROUTER
    write_router(DRAWN, "abc", file)
    with pytest.raises(ValueError, match="made for other weights"):
        read_router(file, "abd")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a router"):
        read_router(file, "abc")
    with pytest.raises(ValueError, match="cannot be read as a router"):
        read_router(tmp_path / "none", "abc")


def test_a_model_is_loaded_with_the_router_beside_it(folder: Path) -> None:
    """Without one it has none; one of another model is refused, and the message says which."""
    assert load_backbone(spec(folder))[0].router is None
    weights = weights_digest(folder, DENOISER)
    write_router(DRAWN, weights, folder / ROUTER)
    backbone = load_backbone(spec(folder))[0]
    assert backbone.router is not None
    assert backbone.router.ops is backbone.linear_ops
    write_router(BlockRouter.drawn(6, 64, seed=4), weights, folder / ROUTER)
    with pytest.raises(CheckpointError, match=r"model m: .* 6 blocks of width 64, and the model has 6 of width 128"):
        load_backbone(spec(folder))


def test_tiers_with_rows_per_block_need_a_router(folder: Path) -> None:
    """Before anything is served."""
    grid = Grid("euler", (1.0, 0.5, 0.0))
    run = TierRun("high", "euler", 4, (9216, 16384), grid, block_rows=BlockRows.rising(0.5, 0.5, 2, 6))
    weights = weights_digest(folder, DENOISER)
    write_book(TierBook((run,), weights=weights), folder / FILE)
    with pytest.raises(ValueError, match=r"its tier high has rows per block, and router\.safetensors does not lie"):
        read_book(str(folder))
    write_router(DRAWN, weights, folder / ROUTER)
    assert read_book(str(folder)).runs == (run,)
