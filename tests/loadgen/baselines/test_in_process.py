import io
from pathlib import Path

import pytest
from PIL import Image

from lego_serve.zoo.export import export
from loadgen.baselines.in_process import InProcessPipeline
from loadgen.bursts.plan import FIRST
from loadgen.children import ChildError
from loadgen.traffic import ImageRequest
from tests.support.tiny_models import untrained


def test_pipeline_answers_in_order(tmp_path: Path) -> None:
    """The baseline makes each image asked for, one after the other, all due at the start.

    Slow: it is a process of its own, whose imports of torch and diffusers take nearly all of the time.
    """
    export(untrained(), tmp_path / "weights")
    requests = [ImageRequest(prompt, 96, 128, 2, 4.0, 1) for prompt in ("a red circle", "a blue square")]
    with InProcessPipeline(tmp_path / "weights", 0, tmp_path / "log") as baseline:
        samples = baseline.burst(requests, threads=1)
    assert samples[0].due_s == samples[1].due_s == 0.0
    assert samples[0].done_s == samples[1].sent_s < samples[1].done_s
    for sample in samples:
        assert sample.reply.image is not None
        assert Image.open(io.BytesIO(sample.reply.image)).size == (96, 128)


def test_failing_pipeline_is_told(tmp_path: Path) -> None:
    """A baseline that cannot start is an error that ends with its output."""
    with (
        pytest.raises(ChildError, match=r"model_index\.json"),
        InProcessPipeline(tmp_path, 0, tmp_path / "log") as none,
    ):
        none.burst(next(FIRST.traffic(0)), threads=1)
