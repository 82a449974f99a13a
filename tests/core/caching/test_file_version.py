"""When the version of a file is enough to know that it is unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.caching.file_version import SETTLE_S, FileVersion, is_settled

CHANGED_S = 1_700_000_000.0


def version(changed_s: float = CHANGED_S, **fields: int) -> FileVersion:
    """A version of a file."""
    facts = {"device": 1, "inode": 2, "size_bytes": 3, "modified_ns": 4} | fields
    return FileVersion(**facts, changed_ns=int(changed_s * 1e9))


@pytest.mark.parametrize(
    ("read_after_s", "seen_for_s", "settled"),
    [
        (0.0, 0.0, False),
        (SETTLE_S - 0.1, 0.0, False),
        (SETTLE_S, 0.0, True),
        (-3600.0, 0.0, False),  # the file system's clock is ahead
        (-3600.0, SETTLE_S, True),
        (0.0, SETTLE_S - 0.1, False),
    ],
)
def test_a_version_is_settled_once_no_tick_can_hide_a_write(
    read_after_s: float, seen_for_s: float, settled: bool
) -> None:
    """By the file's own time of change, or by how long it has been seen."""
    assert is_settled(version(), CHANGED_S + read_after_s, seen_for_s) is settled


@given(tick_s=st.floats(0.001, SETTLE_S), read_s=st.floats(0, 10), later_s=st.floats(0, 10))
def test_a_write_after_the_read_of_a_settled_version_shows(tick_s: float, read_s: float, later_s: float) -> None:
    """On any clock that ticks at least every SETTLE_S."""
    before = version(CHANGED_S)
    if is_settled(before, CHANGED_S + read_s, 0.0):
        written_s = CHANGED_S + read_s + later_s
        ticked_s = CHANGED_S + ((written_s - CHANGED_S) // tick_s) * tick_s
        assert version(ticked_s) != before


@pytest.mark.parametrize("field", ["device", "inode", "size_bytes", "modified_ns"])
def test_every_field_tells_a_change(field: str) -> None:
    """Also where the others are equal; what tells of the content leaves out where the file lies."""
    assert version(**{field: 9}) != version()
    assert (version(**{field: 9}).content == version().content) is (field in ("device", "inode"))
