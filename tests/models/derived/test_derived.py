"""A derived model's folder loads wherever another's does: its own denoiser, and its base's other parts."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.grids import Grid
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import CheckpointError
from lego_serve.models.derived.difference import decode_difference, write_difference
from lego_serve.models.derived.origin import FILE, Origin, origin_of
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.model_files import denoiser_revision, model_folder
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book, write_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.models.weights_size import weights_bytes
from tests.support.students.derived import derive


def spec(path: Path) -> ModelSpec:
    """The model in a folder, in fp32."""
    return ModelSpec("mine", str(path), dtype="float32")


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    """A base of its own."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A model that is derived from it."""
    return derive(base, tmp_path / "derived")


def draw(path: Path) -> torch.Tensor:
    """One image in four steps."""
    pipeline = OfflinePipeline.load(spec(path))
    return pipeline.generate(["a red circle"], width=96, height=96, steps=4, guidance=1.0, seeds=[7])


def test_it_draws_what_a_folder_of_its_own_would(base: Path, folder: Path, tmp_path: Path) -> None:
    """Bit for bit, and again on a second load; the base draws something else."""
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    [file] = (whole / "transformer").glob("*.safetensors")
    origin = origin_of(folder)
    assert origin is not None
    made = decode_difference(load_file(file), load_file(folder / FILE), origin.unchanged)
    save_file(made, file, metadata={"format": "pt"})
    image = draw(folder)
    assert torch.equal(image, draw(whole))
    assert torch.equal(image, draw(folder))
    assert not torch.equal(image, draw(base))


def test_it_has_nothing_but_its_difference(base: Path, folder: Path) -> None:
    """Its other parts, its sizes and the layers that adapters may change are its base's; its digest is its own."""
    assert [file.name for file in folder.iterdir()] == [FILE]
    assert model_folder(spec(folder), "vae") == model_folder(spec(base), "vae")
    assert load_text_encoder(spec(folder)).encode(["a"])
    assert load_vae(spec(folder)).latent_channels == 8
    assert weights_bytes(spec(folder), "backbone") == weights_bytes(spec(base), "backbone")
    assert base_layers(spec(folder)).shapes == base_layers(spec(base)).shapes
    assert denoiser_revision(spec(folder)) == denoiser_digest(folder) != denoiser_revision(spec(base))


def test_a_base_beside_it_may_be_named_by_a_dot(base: Path, tmp_path: Path) -> None:
    """So that both can be moved together."""
    derive(base, tmp_path / "derived", path="../base")
    (tmp_path / "elsewhere").mkdir()
    for name in ("base", "derived"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert load_backbone(spec(tmp_path / "elsewhere" / "derived"))


def test_its_tiers_are_those_of_its_own_weights(base: Path, folder: Path, tmp_path: Path) -> None:
    """The book of another difference to the same base is refused."""
    run = TierRun("turbo", "euler", 2, (1, 2**16), Grid("euler", (1.0, 0.5, 0.0)))
    write_book(TierBook((run,), weights=denoiser_digest(folder)), folder / "tiers.json")
    assert read_book(str(folder)).names == ("exact", "turbo")
    other = derive(base, tmp_path / "other", seed=2)
    shutil.copy(folder / "tiers.json", other)
    with pytest.raises(ValueError, match="tuned on other weights"):
        read_book(str(other))


def test_a_base_with_other_weights_is_refused(base: Path, folder: Path) -> None:
    """The line names both, and what to do."""
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("3.0", "2.0"))
    with pytest.raises(CheckpointError, match=r"^model mine: .*derived is derived from other weights than .*base has"):
        load_backbone(spec(folder))


def test_a_base_that_is_missing_or_derived_is_refused(base: Path, folder: Path, tmp_path: Path) -> None:
    """A derived model has a base that is whole."""
    second = tmp_path / "second"
    second.mkdir()
    state = load_file(next((base / "transformer").glob("*.safetensors")))
    write_difference(second, state, state, Origin(str(folder), denoiser_digest(folder)))
    with pytest.raises(CheckpointError, match="which is derived itself"):
        load_backbone(spec(second))
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match=r"^model mine: no folder .*base$"):
        load_vae(spec(folder))


def test_a_damaged_difference_is_refused(folder: Path) -> None:
    """Cut short it is damaged; the line names the file."""
    file = folder / FILE
    content = file.read_bytes()
    file.write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=r"difference\.safetensors is damaged or incomplete: .*; copy or make"):
        load_backbone(spec(folder))
    file.write_bytes(content[:3])
    for load in (load_vae, denoiser_revision):
        with pytest.raises(CheckpointError, match=r"difference\.safetensors is damaged or incomplete"):
            load(spec(folder))
