"""What an early start costs is measured: nothing when it is not late, everything when the adapter never comes."""

import math
from pathlib import Path

import pytest

from benchmarks.addons.late_adapters import Row, draw, held_out, rows_of
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from tests.support.lora.adapters import adapter, diffusers_names, products

STEPS, SIDE, COUNT = 4, 96, 2


@pytest.fixture(scope="module")
def family(tiny_folder: Path) -> OfflinePipeline:
    """lego-tiny's architecture with random weights."""
    return OfflinePipeline.load(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))


@pytest.fixture(scope="module")
def changing(tiny_folder: Path) -> Adapter:
    """An adapter that changes the model strongly."""
    base = base_layers(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))
    return adapter(base, diffusers_names(products(base, 2, strength=0.5, only="transformer.")))


def test_the_later_the_adapter_the_less_alike(family: OfflinePipeline, changing: Adapter) -> None:
    """In time it is itself; never, it is the model without it; each image is judged."""
    rows = {row.late: row for row in rows_of(family, changing, "stripes", COUNT, STEPS, SIDE)}
    assert set(rows) == {0, 1, 2, 4}
    assert (rows[0].cosine, rows[0].psnr_db) == (pytest.approx(1), math.inf)
    assert rows[0].least_cosine > rows[2].least_cosine > rows[4].least_cosine
    assert [row.late for row in rows.values() if row.is_bound] == [0]  # it changes all of it at once
    assert all(isinstance(row, Row) and 0 <= row.styled <= row.count == COUNT for row in rows.values())
    prompts = held_out(COUNT)
    never = draw(family, changing, prompts, range(COUNT), late=STEPS, steps=STEPS, side=SIDE)
    plain = family.generate(prompts, width=SIDE, height=SIDE, steps=STEPS, seeds=range(COUNT))
    assert never.pixels.equal(plain)
