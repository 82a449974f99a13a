import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadgen.baselines.sd3_loading import load_pipeline, make_image
from loadgen.children import descendants
from loadgen.client import Sample
from loadgen.edits.masks import draw_mask, mask_file
from loadgen.edits.request import EditRequest
from loadgen.server import monolith
from loadgen.traffic import ClosedLoop, ImageRequest

pytestmark = pytest.mark.ray
REQUESTS = [ImageRequest(prompt, 96, 128, 2, 4.0, 3) for prompt in ("a red circle", "a blue square", "a cross")]


def pixels(sample: Sample) -> np.ndarray:
    assert sample.reply.image is not None, sample.reply.error
    return np.asarray(Image.open(io.BytesIO(sample.reply.image)), dtype=np.int16)


def test_monolith_serves_diffusers_images(tiny_folder: Path, tmp_path: Path) -> None:
    """The monolith answers the client's body with diffusers' own image and leaves no process behind."""
    before = set(descendants(os.getpid()))
    server = monolith(tiny_folder, 0, tmp_path / "log", replicas=1, threads=1, compiled=False)
    with server:
        assert server.dtype in ("float32", "bfloat16")
        started = set(descendants(os.getpid())) - before
        samples = server.run(REQUESTS, ClosedLoop(requests=3, outstanding=3), random.Random(0))
    assert started
    assert not started & set(descendants(os.getpid()))
    request = REQUESTS[0]
    own = make_image(
        load_pipeline(tiny_folder),
        request.prompt,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
        seed=request.seed,
        max_sequence_length=0,
    )
    assert own.size == (request.width, request.height)
    assert np.abs(pixels(samples[0]) - np.asarray(own, dtype=np.int16)).max() <= 1
    assert np.abs(pixels(samples[0]) - pixels(samples[1])).max() > 0


def test_monolith_edits_templates_where_masks_say(tiny_folder: Path, tmp_path: Path) -> None:
    """As its own kind of server it answers the form of an edit, and generates nothing."""
    mask = draw_mask(0.2, 96, 96, np.random.default_rng(0))
    edits = [EditRequest(prompt, 96, 96, 2, 4.0, 3, mask=mask_file(mask)) for prompt in ("a red circle", "a cross")]
    with monolith(tiny_folder, 0, tmp_path / "log", replicas=1, threads=1, compiled=False, edits=True) as server:
        made = server.run(edits, ClosedLoop(2, 2), random.Random(0))
        [refused] = server.run(REQUESTS[:1], ClosedLoop(1, 1), random.Random(0))
    assert not refused.is_ok
    moved = np.abs(pixels(made[0]) - pixels(made[1]))
    assert moved.shape == (96, 96, 3)
    assert moved[mask].mean() > moved[~mask].mean()
