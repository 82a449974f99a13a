"""The envelope of durable checkpoints: whole on the way back, and only for the job it was made for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.checkpoint import DamagedCheckpoint, JobCheckpoint, LaneKey, pack, unpack

KEY = LaneKey("denoise", 0, "revision 1", 20, "euler")
CHECKPOINT = JobCheckpoint("job_1", 2, "workflow", {KEY: b"state", replace(KEY, lane=1): b"other"})
KEYS = st.builds(LaneKey, st.text(), st.integers(0, 9), st.text(), st.integers(0, 99), st.text())


@given(st.builds(JobCheckpoint, st.text(), st.integers(0), st.text(), st.dictionaries(KEYS, st.binary())))
def test_a_checkpoint_comes_back_whole(checkpoint: JobCheckpoint) -> None:
    """Every lane with its bytes."""
    assert unpack(pack(checkpoint)) == checkpoint


@given(st.integers(0), st.integers(1, 255))
def test_a_damaged_checkpoint_never_passes_for_another(place: int, change: int) -> None:
    """Whichever bit is wrong, it is refused or its lanes' bytes are right: these are hashed, and resumed from."""
    content = bytearray(pack(CHECKPOINT))
    content[place % len(content)] ^= change
    try:
        found = unpack(bytes(content))
    except DamagedCheckpoint:
        return
    assert set(found.lanes.values()) <= set(CHECKPOINT.lanes.values())


@given(st.integers(0))
def test_a_part_of_a_checkpoint_is_refused(length: int) -> None:
    """Power loss may leave any part of a file."""
    content = pack(CHECKPOINT)
    with pytest.raises(DamagedCheckpoint):
        unpack(content[: length % len(content)])


def test_lanes_go_on_from_their_bytes() -> None:
    """Where nothing has changed since."""
    wanted = {("denoise", lane): replace(KEY, lane=lane) for lane in range(3)}
    assert CHECKPOINT.lanes_for("job_1", "workflow", wanted) == {("denoise", 0): b"state", ("denoise", 1): b"other"}


@pytest.mark.parametrize(
    "changed", [{"model_revision": "2"}, {"steps": 30}, {"sampler": "dpmpp_2m"}, {"node": "refine"}, {"lane": 5}]
)
def test_a_lane_starts_again_where_anything_differs(changed: dict[str, object]) -> None:
    """Its steps would end as the image of neither."""
    wanted = {("denoise", 0): replace(KEY, **changed)}
    assert CHECKPOINT.lanes_for("job_1", "workflow", wanted) == {}


@pytest.mark.parametrize(("job", "workflow"), [("job_2", "workflow"), ("job_1", "another")])
def test_a_checkpoint_of_another_job_or_workflow_is_not_used(job: str, workflow: str) -> None:
    """None of its lanes is."""
    assert CHECKPOINT.lanes_for(job, workflow, {("denoise", 0): KEY}) == {}
