import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from loadgen.client import Reply, Sample
from loadgen.edits.looked_at import mask_pixels, pixels
from loadgen.edits.plan import EDITS
from loadgen.edits.request import EditRequest
from loadgen.edits.templates import template_file
from loadgen.edits.workload import EditsWorkload
from loadgen.mixed.objective import fit, key_of
from loadgen.mixed.workload import ALONE, CLOSED, FIRST_PROBE, RATED, WARM_UP


def workload(name: str = "edits-tryon", seed: int = 0) -> EditsWorkload:
    chosen = EDITS[name]
    return EditsWorkload(chosen.suite, chosen.plan, seed)


def drawn(count: int, name: str = "edits-tryon", phase: int = CLOSED) -> list[EditRequest]:
    found = [each for each in workload(name).requests(1, phase, count) if isinstance(each, EditRequest)]
    assert len(found) == count
    return found


def test_same_requests_for_both_sides() -> None:
    """A phase's requests depend on nothing but the seed, the round and the phase; fewer are the first of more."""
    assert workload().requests(2, RATED, 40)[:20] == workload().requests(2, RATED, 20)
    assert workload(seed=1).requests(2, RATED, 20) != workload().requests(2, RATED, 20)


@pytest.mark.parametrize(("name", "mean"), [("edits-tryon", 0.112), ("edits-inpaint", 0.354)])
def test_masks_are_as_large_as_in_production(name: str, mean: float) -> None:
    """On average, and each file's mask is as large as the request says."""
    requests = drawn(500, name)
    ratios = np.array([each.mask_ratio for each in requests])
    assert ratios.mean() == pytest.approx(mean, abs=4 * ratios.std() / 500**0.5)
    for each in requests[:5]:
        assert mask_pixels(each.mask).mean() == pytest.approx(each.mask_ratio)


def test_few_templates_are_asked_for_most() -> None:
    """By Zipf's law: of 20 the first gets 28 % of the edits, the second half of that."""
    asked = Counter(each.template for phase in (CLOSED, RATED, ALONE) for each in drawn(1000, phase=phase))
    assert asked[0] / 3000 == pytest.approx(0.278, abs=0.03)
    assert asked[1] / 3000 == pytest.approx(0.139, abs=0.03)
    assert max(asked) == 19


def test_warming_up_asks_for_every_template() -> None:
    """One after the other, so that each is known before anything is timed."""
    assert [each.template for each in drawn(20, phase=WARM_UP)] == list(range(20))


def test_probes_cost_the_same_and_ask_for_others() -> None:
    """All probes of a round have masks of the same sizes, elsewhere and on templates of their own."""
    one, other = (drawn(60, phase=FIRST_PROBE + number) for number in range(2))
    assert [each.mask_ratio for each in one] == [each.mask_ratio for each in other]
    assert [each.mask for each in one] != [each.mask for each in other]
    assert [each.template for each in one] != [each.template for each in other]
    assert not {each.prompt for each in one} & {each.prompt for each in other}


def test_the_objective_is_of_one_kind() -> None:
    """One solo request gives every edit its objective: its mask costs the baseline nothing."""
    place = workload()
    grid = place.solo_grid()
    objective = fit(grid, [[Sample(0.0, 1.0, 3.5, Reply(b""))]], 5.0)
    assert {key_of(each) for each in drawn(50)} == {key_of(each) for each in grid}
    assert objective.slo_s(drawn(1)[0]) == 5 * 2.5


def test_the_form_is_openais() -> None:
    """The template and the mask as files of one size, beside the fields of the interface."""
    request = drawn(1)[0]
    assert request.path == "/v1/images/edits"
    for name, content, kind in request.files.values():
        assert name.endswith(".png")
        assert kind == "image/png"
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (256, 256)
    body = request.body("lego-tiny")
    assert (body["reuse"], body["mask_feather"], body["num_inference_steps"]) == ("high", 0, 20)
    assert not {"image", "mask"} & set(body)


def test_templates_differ_and_stay() -> None:
    """Twenty different pictures, each of two colours at least, the same at every size."""
    files = [template_file(256, 256, number) for number in range(20)]
    assert len(set(files)) == 20
    for number, file in enumerate(files):
        assert len(np.unique(pixels(file).reshape(-1, 3), axis=0)) > 1
        large = pixels(template_file(512, 512, number))
        small = np.asarray(Image.fromarray(large).resize((256, 256), Image.Resampling.BOX))
        assert np.abs(small.astype(int) - pixels(file)).mean() < 1.0
