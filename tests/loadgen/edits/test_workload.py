import io
import random
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from loadgen.client import Reply, Sample
from loadgen.edits.image_quality import read_mask
from loadgen.edits.plan import EDITS
from loadgen.edits.request import EditRequest
from loadgen.edits.scenes import PLACES, SHAPES, place_centre, template_scene
from loadgen.edits.templates import template_caption
from loadgen.edits.wording import COLOUR_WORDS, PLACE_WORDS, SHAPE_WORDS
from loadgen.edits.workload import EditsWorkload
from loadgen.mixed.objective import cost_key, fit
from loadgen.mixed.workload import ALONE, CLOSED, FIRST_PROBE, RATED, WARM_UP


def workload(name: str = "edits-tryon", seed: int = 0) -> EditsWorkload:
    chosen = EDITS[name]
    return EditsWorkload(chosen.suite, chosen.plan, seed)


@cache
def phase_of(name: str, phase: int, count: int) -> list[EditRequest]:
    """The first requests of a phase, drawn once: their masks take longest."""
    found = [each for each in workload(name).requests(1, phase, count) if isinstance(each, EditRequest)]
    assert len(found) == count
    return found


def drawn(count: int, name: str = "edits-tryon", phase: int = CLOSED) -> list[EditRequest]:
    """So many; fewer are the first of more, as the first test here says."""
    is_shared = phase == CLOSED and name in ("edits-tryon", "edits-inpaint")  # which several tests draw
    return phase_of(name, phase, 500 if is_shared else count)[:count]


def test_same_requests_for_both_systems() -> None:
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
        assert read_mask(each.mask).mean() == pytest.approx(each.mask_ratio)


def test_few_templates_are_asked_for_most() -> None:
    """By Zipf's law: of 20 the first gets 28 % of the edits, the second half of that."""
    chosen = EDITS["edits-tryon"]
    small = replace(chosen.suite, classes=(replace(chosen.suite.classes[0], sizes=((64, 64),)),))
    requests = EditsWorkload(small, chosen.plan, 0).requests  # masks, which take longest to draw, play no part
    asked = Counter(each.template for phase in (CLOSED, RATED, ALONE) for each in requests(1, phase, 500))
    assert asked[0] / 1500 == pytest.approx(0.278, abs=0.03)
    assert asked[1] / 1500 == pytest.approx(0.139, abs=0.03)
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
    assert {cost_key(each) for each in drawn(50)} == {cost_key(each) for each in grid}
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


def named(prompt: str, place: str) -> bool:
    """Whether a prompt names a place; a word of one place may be part of a longer one of another."""
    found = max(
        ((word, each) for each in PLACES for word in PLACE_WORDS[each] if word in prompt and each == place),
        key=lambda pair: len(pair[0]),
        default=None,
    )
    longer = [word for each in PLACES if each != place for word in PLACE_WORDS[each] if word in prompt]
    return found is not None and not any(found[0] in word for word in longer)


def distance_to(place: str, mask: np.ndarray) -> float:
    """From the middle of a place to the mask's, in shares of a side."""
    rows, columns = np.nonzero(mask)
    x, y = place_centre(place)
    return float(np.hypot(columns.mean() / mask.shape[1] - x, rows.mean() / mask.shape[0] - y))


@pytest.mark.parametrize("name", ["edits-tryon", "edits-inpaint"])
def test_prompts_are_about_their_template(name: str) -> None:
    """They keep its ground, and ask for a thing where one of the template's was."""
    for each in drawn(150, name):
        scene = template_scene(each.template)
        words = COLOUR_WORDS.get(scene.ground, (scene.ground,))
        assert any(f"{word} {kind}" in each.prompt for word in words for kind in ("background", "ground"))
        assert any(named(each.prompt, thing.place) for thing in scene.things)
        assert sum(each.prompt.count(f" {word} ") for kind in SHAPES for word in SHAPE_WORDS[kind]) in (1, 2)


@pytest.mark.parametrize("name", ["edits-tryon", "edits-inpaint"])
def test_masks_lie_where_prompts_say(name: str) -> None:
    """A mask's middle is that of a place named, but for large masks, which grow where there is room."""
    requests = [each for each in drawn(150, name) if each.mask_ratio > 0]
    for each in requests:
        mask = read_mask(each.mask)
        places = [thing.place for thing in template_scene(each.template).things if named(each.prompt, thing.place)]
        if each.mask_ratio < 0.05:
            assert min(distance_to(place, mask) for place in places) < 0.06
        points = [tuple(int(256 * share) for share in place_centre(place)) for place in places]
        assert any(mask[y - 8 : y + 9, x - 8 : x + 9].any() for x, y in points)
    assert any(each.mask_ratio < 0.05 for each in requests)


@pytest.mark.parametrize("name", ["edits-tryon", "edits-inpaint"])
def test_masks_have_the_quantiles(name: str) -> None:
    """What is drawn are the plan's ratios one for one, to a pixel, wherever masks lie."""
    ratios = EDITS[name].plan.ratios
    chance = np.random.default_rng(random.Random("0/1/0/masks").getrandbits(64))
    wanted = [ratios.draw(chance) for _ in range(60)]
    assert [each.mask_ratio for each in drawn(60, name)] == pytest.approx(wanted, abs=0.51 / 256**2)


def test_no_prompt_comes_twice() -> None:
    """Neither in a phase nor in two of them, so that nobody has it encoded already."""
    phases = (CLOSED, RATED, WARM_UP, FIRST_PROBE, ALONE)
    prompts = [each.prompt for phase in phases for each in drawn(160, phase=phase)]
    assert len(set(prompts)) == len(prompts) == 5 * 160


def test_a_caption_says_the_template_where_the_plan_says_so() -> None:
    """Edits of the two suites are the same but for that, and only lego_serve's field is sent."""
    told, plain = (drawn(20, name) for name in ("edits-tryon", "edits-tryon-plain"))
    assert [replace(each, caption="") for each in told] == plain
    for each in told:
        assert each.body("lego-tiny")["caption"] == each.caption == template_caption(each.template)
        assert each.caption != each.prompt
    assert not any("caption" in each.body("lego-tiny") for each in plain)
    assert {name: chosen.plan.captioned for name, chosen in EDITS.items() if not chosen.plan.captioned} == {
        "edits-tryon-plain": False
    }
