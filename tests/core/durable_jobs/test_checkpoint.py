"""The envelope of durable checkpoints: whole on the way back, and only for the job it was made for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.checkpoint import DamagedCheckpoint, JobCheckpoint, LaneKey, pack, unpack
from lego_serve.core.jobs.progress import LaneCheckpoint

KEY = LaneKey("denoise", 0)
LANES = {KEY: LaneCheckpoint(5, b"state"), LaneKey("denoise", 1): LaneCheckpoint(10, b"other")}
CHECKPOINT = JobCheckpoint("job_1", 2, "workflow", LANES)
KEYS = st.builds(LaneKey, st.text(), st.integers(0, 9))
STATES = st.builds(LaneCheckpoint, st.integers(0), st.binary())


@given(st.builds(JobCheckpoint, st.text(), st.integers(0), st.text(), st.dictionaries(KEYS, STATES)))
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
    assert {lane.state for lane in found.lanes.values()} <= {b"state", b"other"}


@given(st.integers(0))
def test_a_part_of_a_checkpoint_is_refused(length: int) -> None:
    """Power loss may leave any part of a file."""
    content = pack(CHECKPOINT)
    with pytest.raises(DamagedCheckpoint):
        unpack(content[: length % len(content)])


def test_lanes_go_on_from_their_bytes() -> None:
    """Where it is the same job, and the same workflow and inputs."""
    assert CHECKPOINT.lanes_for("job_1", "workflow") == LANES


@pytest.mark.parametrize(("job", "workflow"), [("job_2", "workflow"), ("job_1", "another")])
def test_a_checkpoint_of_another_job_or_workflow_is_not_used(job: str, workflow: str) -> None:
    """None of its lanes is."""
    assert CHECKPOINT.lanes_for(job, workflow) == {}
