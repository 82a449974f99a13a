"""The file of tiers beside a model's weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.grids import Grid
from lego_serve.models.tier_files import read_book, write_book
from lego_serve.models.weights_digest import DENOISER, weights_digest

RUN = TierRun("high", "euler", 4, (1, 2**16), Grid("euler", (1.0, 0.5, 0.0)))


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model of its own."""
    place = tmp_path / "model"
    shutil.copytree(tiny_folder, place)
    return place


def test_a_model_without_the_file_has_the_exact_tier_alone(folder: Path) -> None:
    """And so has a hub id; a file that is named must be there."""
    assert read_book(str(folder)).names == read_book("someone/model").names == ("exact",)
    with pytest.raises(ValueError, match="the tier fast is not tuned"):
        read_book(str(folder), default="fast")
    with pytest.raises(ValueError, match=r"cannot be read from .*other\.json"):
        read_book(str(folder), folder / "other.json")


def test_a_book_belongs_to_the_weights_it_was_tuned_on(folder: Path) -> None:
    """With another scheduler it is refused."""
    book = TierBook((RUN,), weights=weights_digest(folder, DENOISER))
    write_book(book, folder / "tiers.json")
    assert read_book(str(folder)) == book
    assert read_book(str(folder), default="high") == replace(book, default="high")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("3.0", "2.0"))
    with pytest.raises(ValueError, match="tuned on other weights"):
        read_book(str(folder))


def test_a_damaged_file_is_named(folder: Path) -> None:
    """The whole server does not start with it."""
    (folder / "tiers.json").write_text("{")
    with pytest.raises(ValueError, match=r"tiers\.json"):
        read_book(str(folder))
