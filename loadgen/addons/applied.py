"""Whether lego's images of the common rate have their add-ons: the same when made alone, others without them."""

from collections.abc import Mapping

from loadgen.addons.request import AddonsRequest
from loadgen.client import Sample
from loadgen.mixed.objective import Timed
from loadgen.mixed.sides import Server, one_by_one
from loadgen.summary import image_differences

VISIBLE_255 = 16  # an image whose furthest pixel moved by less was not changed to speak of


def inspect_applied(server: Server, rated: Timed, count: int) -> Mapping[str, object]:
    """Make some images once more, alone and then without add-ons, and compare."""
    answered = [
        (request, sample)
        for request, sample in rated
        if sample.is_ok and isinstance(request, AddonsRequest) and request.adapters
    ]
    chosen = answered[:: max(1, len(answered) // count)][:count]
    under_load = [sample for _, sample in chosen]
    alone = one_by_one(server, [request for request, _ in chosen])
    bare = one_by_one(server, [request.without for request, _ in chosen])
    same = [_difference(one, other) for one, other in zip(under_load, alone, strict=True)]
    changed = [_difference(one, other) for one, other in zip(under_load, bare, strict=True)]
    return {
        "made_again_alone": sum(each is not None for each in same),
        "made_again_max_difference_255": max((each for each in same if each is not None), default=None),
        "made_without_addons": sum(each is not None for each in changed),
        "visibly_changed_by_addons": sum(each is not None and each >= VISIBLE_255 for each in changed),
        "early_start": False,
    }


def _difference(one: Sample, other: Sample) -> int | None:
    """The furthest pixel's, None where an image is missing."""
    found = image_differences([[[one]]], [[[other]]])["max_difference_255"]
    return None if found is None else int(found)
