import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from loadgen.runs.posting import EDITS, GENERATIONS, Mix, posted
from loadgen.traces.record import Record


def record(index: int = 0, model: str = "m", **extra: object) -> Record:
    payload = {"model": model, "prompt": f"p{index}", "n": 1, "size": "64x32", "num_inference_steps": 4, "seed": index}
    return Record(100.0 * index, payload, extra)


def test_payloads_go_out_word_for_word() -> None:
    """Without a mix a request is the trace's own payload."""
    [request] = posted([record(slo_ms=5)], Mix(), 0)
    assert (request.path, request.fields, request.files) == (GENERATIONS, record().payload, {})


def test_names_are_given_by_popularity() -> None:
    """Models, adapters and ControlNets of the trace become those of the server, the most popular first."""
    records = [
        record(0, "x", adapters=["a"], controlnets=["c", "d"]),
        record(1, "y", adapters=["b"]),
        record(2, "y", adapters=["b", "a"], controlnets=["c"]),
        record(3, "z", adapters=["b"]),
    ]
    made = posted(records, Mix(models=("one", "two"), adapters=("style",), controlnets=("edge", "depth")), 0)
    assert [request.fields["model"] for request in made] == ["two", "one", "one", "one"]
    assert made[2].fields["lora"] == [{"name": "style", "scale": 1.0}]
    nets = made[0].fields["controlnet"]
    assert isinstance(nets, list)
    assert [net["name"] for net in nets] == ["edge", "depth"]
    assert all(net["image"] for net in nets)
    assert "controlnet" not in made[1].fields


def test_edits_are_forms_with_an_image_and_a_mask() -> None:
    """An edit has an image of its size, an inpainting besides a mask with something to change."""
    edit, inpaint = posted([record(0, kind="edit"), record(1, kind="inpaint", adapters=["a"])], Mix(adapters=("s",)), 0)
    assert (edit.path, inpaint.path) == (EDITS, EDITS)
    assert (set(edit.files), set(inpaint.files)) == ({"image"}, {"image", "mask"})
    assert all(isinstance(value, str) for value in inpaint.fields.values())
    assert json.loads(str(inpaint.fields["lora"])) == [{"name": "s", "scale": 1.0}]
    with Image.open(io.BytesIO(edit.files["image"][1])) as image:
        assert image.size == (64, 32)
    with Image.open(io.BytesIO(inpaint.files["mask"][1])) as mask:
        assert 0 < np.mean(np.asarray(mask)[..., -1] == 0) < 1


def test_shares_of_edits_are_drawn() -> None:
    """So many generations become edits and inpaintings, the same ones for the same seed."""
    mix = Mix(edit_share=0.25, inpaint_share=0.25)
    made = posted([record(index) for index in range(400)], mix, 0)
    kinds = Counter(request.record.kind for request in made)
    assert kinds["edit"] == pytest.approx(100, abs=30)
    assert kinds["inpaint"] == pytest.approx(100, abs=30)
    again = posted([record(index) for index in range(400)], mix, 0)
    assert [request.record.kind for request in again] == [request.record.kind for request in made]


def test_masks_are_as_large_as_in_the_sample() -> None:
    """Masks of faces are small and those of inpainting large."""

    def mean(masks: str) -> float:
        made = posted([record(index, kind="inpaint") for index in range(60)], Mix(masks=masks), 0)
        files = [Image.open(io.BytesIO(request.files["mask"][1])) for request in made]
        return float(np.mean([np.mean(np.asarray(file)[..., -1] == 0) for file in files]))

    assert mean("faces") < 0.06 < 0.2 < mean("inpaint")


def test_servers_that_know_less_get_less() -> None:
    """Edits can be sent as generations, and fields that OpenAI does not have left out."""
    [request] = posted([record(kind="edit", adapters=["a"])], Mix(generations_only=True, openai_only=True), 0)
    assert request.path == GENERATIONS
    assert set(request.fields) == {"model", "prompt", "n", "size"}
