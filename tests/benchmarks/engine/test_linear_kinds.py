"""The rows of the benchmark of linear layers, and its table."""

from pathlib import Path

import pytest
import torch

from benchmarks.engine.compute.linear_kinds import SPEC, ThinnedRows, closed_form, markdown, rows_of
from lego_kernels.sparse24 import sparse24_rows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.registry import built_in_folder
from lego_serve.models.sparse24_files import write_sparse24
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.lessons import Lessons
from lego_serve.tuning.quality import Sample
from lego_serve.tuning.trajectories import Calibration


def test_thinned_rows_are_multiplied_as_they_are_or_with_their_norms() -> None:
    """Without a residual either way."""
    x, weight, bias = torch.randn(9, 16), torch.randn(8, 16), torch.randn(8)
    kept = sparse24_rows(x)
    torch.testing.assert_close(ThinnedRows(weight, LinearOps(), has_norm=False)(x, bias), kept @ weight.T + bias)
    found = ThinnedRows(weight, LinearOps(), has_norm=True)(x, None)
    torch.testing.assert_close(found, (kept * (x.norm(dim=1) / kept.norm(dim=1))[:, None]) @ weight.T)


def test_every_kind_draws_in_second_layers_and_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by a model of its own whose other layers are dense; the layers of a file come last."""
    monkeypatch.setattr("lego_serve.tuning.lessons.LESSON_IMAGES", 1)
    pipeline = OfflinePipeline.load(SPEC)
    lessons = Lessons(tmp_path, pipeline, Calibration(("a red circle",), 96, 96, 4.0), 2, "euler").first(1)
    residuals = closed_form(pipeline, lessons, steps=2)
    names = list(block_layers(vars(pipeline.backbone)))
    assert list(residuals) == names
    weights = denoiser_digest(built_in_folder("builtin:lego-tiny"))
    write_sparse24({name: residuals[name] for name in names[:3]}, weights, tmp_path / "file")
    rows = rows_of(residuals, [tmp_path / "file"])
    changed = {}
    for row in rows[1:]:
        assert row.student is not None
        layers = block_layers(vars(row.student.backbone))
        changed[row.name] = sum(layer.kind is not None for layer in layers.values())
    second = sum(name.endswith("net.2") for name in names)
    assert rows[0].student is None
    assert list(changed.values()) == [len(names)] * 2 + [second] * 3 + [len(names)] * 3 + [3]
    assert list(changed)[:2] == ["int8", "fp8"]
    assert list(changed)[-1] == f"2:4, 3 of {len(names)} layers of file"


def test_the_table_has_the_worst_image_and_what_is_right() -> None:
    """Of one object and of two; likeness of the dense images to themselves is left out."""
    samples = [
        Sample(row, image, psnr, 0.5, None, image == 0, 1.0)
        for row, psnr in (("exact", 99.0), ("int8", 40.0))
        for image in (0, 1)
    ]
    assert markdown(samples).splitlines()[2:] == [
        "| exact | 2 |  |  | 1 of 1 + 0 of 1 |",
        "| int8 | 2 | 40.0 (40.0) | 0.5000 (0.500) | 1 of 1 + 0 of 1 |",
    ]
