import random
from collections.abc import Sequence
from dataclasses import replace

from loadgen.addons.image_checks import check_addon_images
from loadgen.addons.plan import ADDONS
from loadgen.addons.request import AddonsRequest
from loadgen.client import Reply, Sample
from loadgen.mixed.bench import Bench
from loadgen.mixed.objective import TimedRun
from loadgen.mixed.plan import Layout
from loadgen.mixed.rounds import measure
from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest
from tests.support.loadgen.pools import workload
from tests.support.loadgen.simulated import World, cost_s, image, world


class SlowStorage:
    """Notes what it is set to."""

    def __init__(self) -> None:
        self.set_to: list[float] = []

    @property
    def plain_request(self) -> ImageRequest:
        """The request by whose time it is set."""
        return workload().plain_request

    def set(self, plain_s: float) -> None:
        """Note it."""
        self.set_to.append(plain_s)


def addons_world() -> tuple[World, SlowStorage, Bench]:
    place = world(suite=ADDONS, rounds=2, probe_s=10.0, rated_s=10.0)
    storage = SlowStorage()
    return place, storage, replace(place.bench, workload=workload(), storage=storage)


def test_storage_is_as_slow_as_the_best_layouts_plain_time() -> None:
    """Each layout is tried under its own, the objective is measured without, and the rounds run under the best's."""
    place, storage, bench = addons_world()
    seen = measure(bench)
    threads, replicas = seen.plain_s[Layout(1, 2)], seen.plain_s[Layout(2, 1)]
    plain = cost_s(workload().plain_request)
    assert (round(threads, 6), round(replicas, 6)) == (round(plain / 2**0.5, 6), round(plain, 6))
    best = replicas
    assert storage.set_to == [0.0, threads, 0.0, replicas, best, 0.0, best]
    assert [name for name, _ in place.servers] == ["baseline", "baseline", *["baseline", "lego"] * 2]


def test_requests_of_the_rounds_have_addons() -> None:
    """The closed loop and the common rate carry adapters and ControlNets."""
    _, _, bench = addons_world()
    seen = measure(bench)
    for timed in (seen.lego[0].closed, seen.lego[0].rated):
        assert sum(request.addons != (0, 0) for request in timed.requests) > 0.9 * len(timed.requests)


class Painter:
    """Paints a request's add-ons into its image; ``noise`` makes images differ from time to time."""

    dtype = "float32"
    ready_s = 1.0

    def __init__(self, noise: int = 0, strength: int = 40) -> None:
        self._noise, self._strength, self._made = noise, strength, 0

    def run(
        self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random, deadline_s: object = None
    ) -> list[Sample]:
        """Answer at once, one after the other."""
        assert arrivals == ClosedLoop(len(requests), 1)
        return [Sample(0.0, 0.0, 1.0, Reply(self._paint(request))) for request in requests]

    def _paint(self, request: ImageRequest) -> bytes:
        self._made += 1
        return image(10 + self._strength * sum(request.addons) + self._noise * self._made)


def rated(painter: Painter) -> TimedRun:
    requests = workload().requests(1, 1, 40)
    return TimedRun(requests, painter.run(requests, ClosedLoop(40, 1), random.Random(0)))


def test_images_with_their_addons_pass() -> None:
    """The same image alone, another one without add-ons."""
    painter = Painter()
    found = check_addon_images(painter, rated(painter), 6)
    assert found["made_again_alone"] == found["made_without_addons"] == found["visibly_changed_by_addons"] == 6
    assert found["made_again_max_difference_255"] == 0


def test_images_without_their_addons_are_found_out() -> None:
    """A server that leaves add-ons away makes the same image without them."""
    painter = Painter(strength=0)
    assert check_addon_images(painter, rated(painter), 6)["visibly_changed_by_addons"] == 0


def test_images_that_depend_on_company_are_found_out() -> None:
    """An image that comes out otherwise the second time shows."""
    painter = Painter(noise=1)
    found = check_addon_images(painter, rated(painter), 6)
    assert isinstance(found["made_again_max_difference_255"], int)
    assert found["made_again_max_difference_255"] > 0


def test_nothing_answered() -> None:
    """Without an image there is nothing to compare, and the summary says so."""
    requests = [AddonsRequest("a circle", 128, 128, 8, 4.0, 1, ("x",))]
    found = check_addon_images(Painter(), TimedRun(requests, [Sample(0, 0, 1, Reply(None, "504"))]), 6)
    assert found["made_again_alone"] == 0
    assert found["made_again_max_difference_255"] is None
