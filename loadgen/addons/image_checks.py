"""Checks that lego's images have their add-ons: made again alone they are the same, without add-ons they differ."""

from collections.abc import Mapping

from loadgen.addons.request import AddonsRequest
from loadgen.mixed.bench import run_one_by_one
from loadgen.mixed.objective import TimedRun
from loadgen.server import Server
from loadgen.summary import max_difference_255

VISIBLE_255 = 16  # an image whose furthest pixel moved by less did not visibly change


def check_addon_images(server: Server, rated: TimedRun, count: int) -> Mapping[str, object]:
    """Make ``count`` images of the common rate once more, alone and then without add-ons, and compare them."""
    answered = [
        (request, sample)
        for request, sample in rated
        if sample.is_ok and isinstance(request, AddonsRequest) and request.adapters
    ]
    chosen = answered[:: max(1, len(answered) // count)][:count]
    under_load = [sample for _, sample in chosen]
    alone = run_one_by_one(server, [request for request, _ in chosen])
    bare = run_one_by_one(server, [request.without_addons for request, _ in chosen])
    repeated = [max_difference_255(one, other) for one, other in zip(under_load, alone, strict=True)]
    changed = [max_difference_255(one, other) for one, other in zip(under_load, bare, strict=True)]
    return {
        "made_again_alone": sum(difference is not None for difference in repeated),
        "made_again_max_difference_255": max((d for d in repeated if d is not None), default=None),
        "made_without_addons": sum(difference is not None for difference in changed),
        "visibly_changed_by_addons": sum(d is not None and d >= VISIBLE_255 for d in changed),
        "early_start": False,
    }
