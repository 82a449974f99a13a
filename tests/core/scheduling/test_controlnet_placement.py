"""Where a ControlNet runs follows from its seconds, its residuals' bytes and the link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.controlnet_placement import (
    ControlStep,
    Link,
    Placement,
    choose,
    first_blocks,
    request_bytes,
    residual_bytes,
    step_seconds,
)

NVLINK, ETHERNET = Link(450e9, 20e-6), Link(1.2e9, 1e-3)


def step(**changes: float | int | tuple[int, ...]) -> ControlStep:
    """FLUX at 1024 x 1024 on a large GPU, with a ControlNet of fifteen residuals for 57 blocks."""
    fields = {
        "backbone_s": 0.1,
        "controlnet_s": 0.026,
        "blocks": 57,
        "added_at": tuple(range(0, 57, 4)),
        "request_bytes": request_bytes(64 * 4096),
        "residual_bytes": residual_bytes(4096, 3072, 15, 2),
    } | changes
    return ControlStep(**fields)  # type: ignore[arg-type]


def test_bytes_of_a_step_are_those_of_its_rows() -> None:
    """FLUX at 1024 x 1024: 25 MB a residual, 377 MB a step, a request of one megabyte."""
    assert residual_bytes(4096, 3072, 1, 2) == 25_165_824
    assert residual_bytes(4096, 3072, 15, 2) == 377_487_360
    assert request_bytes(64 * 4096) == 1_048_576


def test_a_slow_link_keeps_a_controlnet_in_the_process() -> None:
    """Through ten gigabits the residuals of FLUX take longer than the ControlNet itself."""
    assert choose(step(), ETHERNET) is Placement.COLOCATED
    assert choose(step(), None) is Placement.COLOCATED
    assert choose(step(), Link(0, 0)) is Placement.COLOCATED


def test_a_fast_link_takes_it_out_block_by_block() -> None:
    """Between GPUs the ControlNet runs beside the backbone, and its first residual need not wait for its last."""
    assert choose(step(), NVLINK) is Placement.PER_BLOCK
    assert step_seconds(step(), NVLINK, Placement.PER_BLOCK) < 0.105
    assert Placement.PER_BLOCK.is_remote
    assert not Placement.COLOCATED.is_remote


def test_latency_makes_one_message_of_many_no_better() -> None:
    """A ControlNet that waits in a queue longer than it would take here stays here."""
    assert choose(step(wait_s=0.05), NVLINK) is Placement.COLOCATED


def test_a_residual_is_waited_for_only_where_it_is_added() -> None:
    """One that comes before its block costs nothing; one that comes late delays from its block on."""
    link = Link(1e15, 0.0)
    early = step(backbone_s=1.0, controlnet_s=0.3, blocks=10, added_at=(4,))
    assert step_seconds(early, link, Placement.PER_STEP) == pytest.approx(1.0)
    late = step(backbone_s=1.0, controlnet_s=0.8, blocks=10, added_at=(4,))
    assert step_seconds(late, link, Placement.PER_STEP) == pytest.approx(0.8 + 0.5)


def test_first_blocks_are_where_residuals_are_first_added() -> None:
    """From the residual of every block."""
    assert first_blocks([0, 0, 1, 1, 3]) == (0, 2, 4)


@given(
    st.floats(0.001, 1),
    st.floats(0.001, 1),
    st.integers(0, 10**9),
    st.floats(1e6, 1e12),
    st.floats(0, 0.1),
    st.floats(0, 0.1),
)
def test_no_placement_is_faster_than_what_is_chosen(
    backbone_s: float, controlnet_s: float, size: int, rate: float, latency_s: float, wait_s: float
) -> None:
    """Nor does any take less than the backbone alone; a message a block is never later than one a step."""
    of = step(backbone_s=backbone_s, controlnet_s=controlnet_s, residual_bytes=size, wait_s=wait_s)
    link = Link(rate, latency_s)
    seconds = {placement: step_seconds(of, link, placement) for placement in Placement}
    assert seconds[choose(of, link)] == min(seconds.values())
    assert min(seconds.values()) >= backbone_s * 0.999
    assert seconds[Placement.PER_BLOCK] <= seconds[Placement.PER_STEP] * 1.001
