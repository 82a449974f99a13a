"""The suites of edits as values: their templates and masks; the rest is derived from suite ``mixed``."""

from dataclasses import dataclass, replace

from loadgen.edits.masks import INPAINT, TRY_ON, MaskRatios
from loadgen.mixed.plan import MIXED, Effort, MixedSuite, SearchPlan, SizeClass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class EditsPlan:
    """Templates, masks, and what each backbone replica may keep of templates.

    The popularity of the k-th template is 1 / k ** ``zipf``.  Masks have no fading edge where ``mask_feather`` is 0,
    as the baseline's have none.
    """

    ratios: MaskRatios
    side: int
    trained_side: int  # the largest that the shipped model makes; larger suites measure speed alone
    templates: int
    zipf: float
    mask_feather: int
    template_bytes: int
    captioned: bool  # requests carry a caption of their template
    compared: int  # edits whose images are compared
    shown: int  # of those in the grid


@dataclass(frozen=True, slots=True)
class EditsSuite:
    """A suite and its plan."""

    suite: MixedSuite
    plan: EditsPlan


PLAN = EditsPlan(
    ratios=TRY_ON,
    side=256,
    trained_side=256,
    templates=20,
    zipf=1.0,
    mask_feather=0,
    template_bytes=512 * MIB,  # 20 templates take 360: two entries for each of 20 steps, as there are captions
    captioned=True,
    compared=24,
    shown=6,
)

FULL = replace(
    MIXED.full,
    ends_after_s=2900.0,
    trial_requests=40,
    solo_repeats=7,
    closed_requests=80,
    rated_s=70.0,
    search=SearchPlan(step=1.35, resolution=1.09, budget_s=160.0, most_probes=8),
    warm_ups=8,
    lego_warm_ups=20,  # one for each template
    alone_requests=10,
)
QUICK = replace(
    MIXED.quick,
    ends_after_s=740.0,
    trial_requests=16,
    solo_repeats=3,
    closed_requests=48,
    rated_s=35.0,
    search=SearchPlan(step=1.35, resolution=1.17, budget_s=110.0, most_probes=6),
    warm_ups=8,
    lego_warm_ups=20,
    alone_requests=6,
)
# An image of 512 x 512 takes several times as long, so fewer requests judge a rate.
FULL_512 = replace(
    FULL,
    trial_requests=16,
    solo_repeats=3,
    closed_requests=32,
    probe_s=50.0,
    fewest_requests=20,
    rated_s=60.0,
    search=SearchPlan(step=1.35, resolution=1.12, budget_s=130.0, most_probes=5),
    warm_ups=4,
    alone_requests=4,
)
QUICK_512 = replace(
    QUICK,
    trial_requests=8,
    closed_requests=24,
    probe_s=30.0,
    fewest_requests=12,
    rated_s=45.0,
    search=SearchPlan(step=1.35, resolution=1.25, budget_s=80.0, most_probes=4),
    warm_ups=4,
    alone_requests=3,
)


def _suite(name: str, title: str, plan: EditsPlan, full: Effort, quick: Effort) -> EditsSuite:
    suite = replace(
        MIXED,
        name=name,
        title=title,
        classes=(SizeClass("edits", ((plan.side, plan.side),)),),
        fewest_steps=20,  # one number, as a workflow in production has: entries are of the steps of one schedule
        most_steps=20,
        without_guidance_every=0,
        rate_factor=0.8,
        full=full,
        quick=quick,
    )
    return EditsSuite(suite, plan)


LARGE = replace(PLAN, side=512, template_bytes=1536 * MIB)  # 20 templates take 1,315
PLAIN = replace(PLAN, template_bytes=256 * MIB, captioned=False)  # 20 templates take 180: one entry for each step

EDITS = {
    chosen.suite.name: chosen
    for chosen in (
        _suite("edits-tryon", "Edits, masks as in try-on", PLAN, FULL, QUICK),
        _suite("edits-tryon-plain", "Edits, masks as in try-on, templates without captions", PLAIN, FULL, QUICK),
        _suite("edits-inpaint", "Edits, masks as in inpainting", replace(PLAN, ratios=INPAINT), FULL, QUICK),
        _suite("edits-tryon-512", "Edits at 512, masks as in try-on", LARGE, FULL_512, QUICK_512),
        _suite(
            "edits-inpaint-512",
            "Edits at 512, masks as in inpainting",
            replace(LARGE, ratios=INPAINT),
            FULL_512,
            QUICK_512,
        ),
    )
}
