"""Both forms of kept activations say the same, and the benchmark compares them."""

from pathlib import Path

import torch

from benchmarks.engine.forms import Sd3Inputs, from_inputs, measure_forms
from benchmarks.engine.masked import masked_lane
from benchmarks.engine.models import build
from benchmarks.engine.timing import Patience
from lego_serve.models.ragged.activations import ACTIVATION_CODECS
from tests.support.benchmarks import run
from tests.support.transformers import rows_at


def test_keys_and_values_made_from_kept_inputs_are_those_that_were_kept(tmp_path: Path) -> None:
    """In fp32, but for rounding; and so is the step that reads them."""
    subject = build("tiny", torch.device("cpu"), "float32")
    backbone = Sd3Inputs(subject.transformer, subject.backbone.shape.pixels_per_latent)
    lane = masked_lane(subject, 1, 8, 0.2, "float32", reads_text=False)
    other = from_inputs(backbone, lane, ACTIVATION_CODECS["float32"])
    assert lane.reuse is not None
    assert other.reuse is not None
    for index, at in enumerate(subject.backbone.attentions):
        made, kept = (rows_at(of, str(index), at.heads, at.width) for of in (other.reuse.cond, lane.reuse.cond))
        torch.testing.assert_close(made, kept, rtol=1e-4, atol=1e-4)
    [one], [two] = subject.backbone.velocity([lane]), subject.backbone.velocity([other])
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_inputs_take_half_the_bytes() -> None:
    """Of keys and values in the same coding."""
    subject = build("tiny", torch.device("cpu"))
    rows = measure_forms(subject, [4], 1, Patience(rounds=2, least_s=0.0))
    by_form = {(row.form, row.coding): row.entry_bytes for row in rows}
    assert by_form["Y", "bfloat16"] * 2 == by_form["KV", "bfloat16"]
    assert by_form["Y", "int8"] < 0.51 * by_form["KV", "int8"]


def test_the_command_has_a_row_for_each_form_and_coding(tmp_path: Path) -> None:
    """At every share."""
    _, rows, table = run(tmp_path, "forms")
    assert {(row["form"], row["coding"]) for row in rows} == {(f, c) for f in ("KV", "Y") for c in ("bfloat16", "int8")}
    assert "over KV" in table
