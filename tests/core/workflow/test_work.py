"""The work of a job in a tier: evaluations, rows and branches, the same for its share and for a tenant's quota."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.rate_limits import pixel_steps
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.tiers import choose_tier
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
PIXELS = 128 * 128
TEN = TierRun("fast", "euler", 20, (1, 2**22), Grid("euler", shifted_sigmas(10, 3.0, 0.001)))
OWN = replace(TEN, own_rows=OwnRows(0.5, warm=4, every=3))  # dense: 0 to 3, 6, 9
BLOCKS = replace(TEN, block_rows=BlockRows(((1.0, 0.5),) * 10))
GUIDED = replace(TEN, checkpoint=Checkpoint("/student", guidance=3.0))


def work_of(name: str, run: TierRun, **values: object) -> tuple[float, int, int]:
    """The share of a job in a tier, its work, and the work of all of its steps."""
    workflow, books = WORKFLOWS[name], {"lego-tiny": TierBook((run,))}
    inputs = bind(workflow, {"prompt": "a", "width": 128, "height": 128} | values)
    tier = choose_tier(workflow, inputs | {"tier": "fast"}, books, None, is_crowded=False)
    return tier.share, pixel_steps(workflow, inputs | {"tier": "fast"}, books), pixel_steps(workflow, inputs, books)


@pytest.mark.parametrize(("run", "passes"), [(TEN, 10), (OWN, 6 + 4 * 0.5), (BLOCKS, 10 * 0.75)])
def test_rows_that_are_not_computed_are_no_work(run: TierRun, passes: float) -> None:
    """By own rows or by rows per block, in both branches."""
    share, work, whole = work_of("lego-tiny", run)
    assert (share, work, whole) == (pytest.approx(passes / 20), passes * 2 * PIXELS, 20 * 2 * PIXELS)


@pytest.mark.parametrize("run", [OWN, BLOCKS])
def test_an_edit_and_a_lane_under_a_controlnet_compute_all_rows(run: TierRun) -> None:
    """So that they are counted whole."""
    for name, values in (("lego-tiny-edit", {"edit": b""}), ("lego-tiny-controlnet", {"controlnet": b""})):
        share, work, whole = work_of(name, run, **values)
        assert (share, work) == (0.5, whole // 2)


def test_guidance_of_the_checkpoint_is_work_though_none_is_asked() -> None:
    """It runs in place of what is asked."""
    share, work, whole = work_of("lego-tiny", GUIDED, guidance=1.0)
    assert (share, work, whole) == (1.0, 10 * 2 * PIXELS, 20 * PIXELS)


@given(st.floats(0.01, 0.99), st.integers(1, 6), st.integers(2, 9), st.integers(1, 30))
def test_own_rows_compute_the_part_that_their_steps_do(share: float, warm: int, every: int, steps: int) -> None:
    """Between that of a sparse step and all of them."""
    rows = OwnRows(share, warm, every)
    dense = sum(rows.is_dense(step) for step in range(steps))
    assert rows.rows_ratio(steps) == pytest.approx((dense + share * (steps - dense)) / steps)
    assert share - 1e-9 <= rows.rows_ratio(steps) <= 1
