import base64
import io
from collections import Counter

import pytest
from PIL import Image

from loadgen.addons.images import outlines
from loadgen.addons.plan import ADDONS_PLAN
from loadgen.addons.request import AddonsRequest
from loadgen.addons.workload import assign_names
from loadgen.mixed.objective import cost_key
from loadgen.mixed.workload import CLOSED, FIRST_PROBE, RATED
from loadgen.popularity import CURVES, shares
from tests.support.loadgen.pools import workload


def drawn(count: int = 1500, round_number: int = 1) -> list[AddonsRequest]:
    requests = workload().requests(round_number, CLOSED, count)
    return [request for request in requests if isinstance(request, AddonsRequest)]


def test_same_requests_for_both_systems() -> None:
    """A phase's requests depend on nothing but the seed, the round and the phase; fewer are the first of more."""
    assert workload().requests(2, RATED, 80)[:40] == workload().requests(2, RATED, 40)
    assert workload(1).requests(2, RATED, 40) != workload().requests(2, RATED, 40)


def test_as_many_addons_as_in_production() -> None:
    """98 % of the requests have a ControlNet, 70 % two, 95 % an adapter; half of them two."""
    requests = drawn()
    assert len(requests) == 1500
    nets, adapters = (Counter(request.addons[at] for request in requests) for at in (0, 1))
    assert 1 - nets[0] / 1500 == pytest.approx(0.98, abs=0.015)
    assert nets[2] / 1500 == pytest.approx(0.70, abs=0.04)
    assert 1 - adapters[0] / 1500 == pytest.approx(0.95, abs=0.02)
    assert adapters[2] / 1500 == pytest.approx(0.475, abs=0.04)


def test_addons_of_a_request_differ_and_are_of_one_service() -> None:
    """Nothing is applied twice, and no request mixes the services' own."""
    adapters = [f"adapter-{number:03d}" for number in range(ADDONS_PLAN.adapters)]
    nets = [f"net-{number:02d}" for number in range(ADDONS_PLAN.controlnets)]
    names = assign_names(ADDONS_PLAN, adapters, nets, 0)
    for request in drawn(300):
        chosen = [name for name, _ in request.controlnets]
        assert len(set(request.adapters)) == len(request.adapters)
        assert len(set(chosen)) == len(chosen)
        services = [
            at for at in (0, 1) if {*request.adapters} & {*names.adapters[at]} or {*chosen} & {*names.controlnets[at]}
        ]
        assert len(services) <= 1


def test_popularity_is_the_curves() -> None:
    """The most popular adapter of each service gets the share that its curve says, half of the requests each."""
    asked = Counter(name for number in range(4) for request in drawn(1500, number) for name in request.adapters)
    of_service = {"lora_A": 0.5 * 1.9, "lora_B": 0.5 * 0.95}
    expected = sorted(
        (6000 * each * share for name, each in of_service.items() for share in shares(CURVES[name], 100)[:3]),
        reverse=True,
    )
    for (_, count), about in zip(asked.most_common(4), expected[:4], strict=True):
        assert count == pytest.approx(about, rel=0.3)


def test_probes_cost_the_same_and_ask_for_others() -> None:
    """All probes of a round have the same sizes, steps and numbers of add-ons, and each its own add-ons."""
    one, other = (workload().requests(1, FIRST_PROBE + number, 60) for number in range(2))
    assert [cost_key(each) for each in one] == [cost_key(each) for each in other]
    assert [each.steps for each in one] == [each.steps for each in other]
    assert [each.body("m").get("lora") for each in one] != [each.body("m").get("lora") for each in other]


def test_every_request_has_an_objective() -> None:
    """The grid has each size with each number of add-ons, at two step counts; the dearest mix is last."""
    grid = workload().solo_grid()
    kinds = {cost_key(request) for request in grid}
    assert len(grid) == 2 * len(kinds) == 2 * 3 * 9
    assert {cost_key(request) for request in workload().requests(1, CLOSED, 400)} <= kinds
    assert grid[-1].addons == (2, 2)


def test_body_is_the_interfaces() -> None:
    """Adapters and ControlNets stand in the body as the server takes them; without any it is the plain body."""
    request = AddonsRequest("a circle", 160, 128, 8, 4.0, 1, ("x", "y"), 0.7, (("net", 3),), 0.6)
    body = request.body("lego-tiny")
    assert body["lora"] == [{"name": "x", "scale": 0.7}, {"name": "y", "scale": 0.7}]
    assert body["controlnet"] == [{"name": "net", "image": outlines(160, 128, 3), "weight": 0.6}]
    assert not {"lora", "controlnet"} & set(request.without_addons.body("lego-tiny"))
    with Image.open(io.BytesIO(base64.b64decode(outlines(160, 128, 3)))) as image:
        assert image.size == (160, 128)
        colours = image.getcolors()
    assert {colour for _, colour in colours or ()} == {(0, 0, 0), (255, 255, 255)}


def test_too_few_names() -> None:
    """A pool smaller than the plan is an error that says so."""
    with pytest.raises(ValueError, match="200 names are needed"):
        assign_names(ADDONS_PLAN, ["one"], [], 0)
