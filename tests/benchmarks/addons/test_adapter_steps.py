"""What adapters cost is measured: the table, and the rates a replica starts with."""

from dataclasses import replace

import pytest

from benchmarks.addons.adapter_steps import measure, table
from lego_serve.engine.calibration import calibrate_adapters
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.registry import ModelSpec
from tests.support.tiny_models import flux_miniature, miniature


@pytest.fixture(scope="module", params=["sd35-medium", "flux-dev"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A miniature's backbone."""
    folder, is_flux = tmp_path_factory.mktemp(str(request.param)), request.param == "flux-dev"
    (flux_miniature if is_flux else miniature)(request.param).save_pretrained(folder)
    return load_backbone(ModelSpec("mine", str(folder), "flux" if is_flux else "sd3", dtype="float32"))[0]


def test_the_table_has_every_choice_and_leaves_the_weights_alone(backbone: Backbone) -> None:
    """Times are positive, and each row stands beside its target."""
    rows = measure(backbone, 8, repeats=1, ranks=(4,))
    assert [(row.layers, row.rank) for row in rows] == [("attention", 4), ("all linears", 4)]
    assert all(min(row.plain_s, row.grouped_s, row.swap_s) > 0 for row in rows)
    assert len(table(rows).splitlines()) == 4
    slow = [replace(row, swap_s=3 * row.plain_s) for row in rows[:1]]
    assert table([*slow, replace(rows[1], swap_s=0.0)]).endswith("in all but 1 of 2 cases.")
    assert backbone.adapters.patched == ()


def test_calibration_answers_rates_and_leaves_the_weights_alone(backbone: Backbone) -> None:
    """None below nothing, and a swap costs something."""
    rates = calibrate_adapters(backbone, repeats=1)
    assert min(rates.product_s, rates.set_s) >= 0
    assert rates.touch_s > 0
    assert backbone.adapters.patched == ()
