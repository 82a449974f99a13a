"""Popularity curves and the requests drawn from them."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from loadgen.popularity import CATALOGUE, CURVES, Locality, alike, catalogue, read_curves, shares, stream


@pytest.mark.parametrize("name", CURVES)
def test_shares_follow_the_curve(name: str) -> None:
    """They fall, add up to one, and those of the k most popular are the curve's."""
    count = CATALOGUE[name.partition("_")[0]]
    found = shares(CURVES[name], count)
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1.0)
    for k, per_cent in CURVES[name]:
        assert sum(found[: int(k)]) == pytest.approx(per_cent / 100, abs=0.01)


def test_a_short_catalogue_is_scaled_up() -> None:
    """Two hundred LoRAs share all requests, in the proportions they had."""
    few, many = shares(CURVES["lora_A"], 200), shares(CURVES["lora_A"], 7250)
    assert sum(few) == pytest.approx(1.0)
    assert few[0] / few[150] == pytest.approx(many[0] / many[150])


def test_curves_can_be_read(tmp_path: Path) -> None:
    """From the points of a file, whose other keys do not matter."""
    points = [[0, 0.0], [1, 60.0], [2, 100.0]]
    kinds = itertools.product(("controlnet", "lora"), "AB")
    written = {f"{kind}_topk_cum_pct_{service}": points for kind, service in kinds}
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(written | {"other": 1}))
    found = read_curves(path)
    assert set(found) == set(CURVES)
    assert shares(found["lora_B"], 2) == pytest.approx([0.6, 0.4])


def test_requests_are_as_popularity_says() -> None:
    """Independent requests come in the proportions given."""
    drawn = Counter(itertools.islice(stream([0.7, 0.2, 0.1], random.Random(1)), 5000))
    assert [drawn[i] / 5000 for i in range(3)] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_clustered_requests_repeat_recent_ones() -> None:
    """Of 500 equals one is asked for again right after far more often than by chance."""
    drawn = list(itertools.islice(stream([1.0] * 500, random.Random(1), Locality(0.5, 1.0)), 2000))
    repeated = sum(later in drawn[max(0, i - 3) : i] for i, later in enumerate(drawn)) / len(drawn)
    assert repeated > 0.35


def test_a_shift_deals_the_ranks_anew() -> None:
    """The favourite before is not the favourite after."""
    popularity = [0.8, *([0.2 / 99] * 99)]
    drawn = list(itertools.islice(stream(popularity, random.Random(2), shift_after=500), 1000))
    [(before, _)], [(after, _)] = Counter(drawn[:500]).most_common(1), Counter(drawn[500:]).most_common(1)
    assert before == 0
    assert after != 0


def test_things_differ() -> None:
    """LoRAs have the sizes of their ranks, and a load takes the longer the more bytes; alike ones are all one."""
    things = catalogue("lora", 500, random.Random(1))
    assert len({thing.size for thing in things}) == 6
    assert all(thing.load_s > 0.1 for thing in things)
    assert len(set(alike(5))) == 1
