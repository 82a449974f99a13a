from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loadgen.traces.record import Record, read_native, write_native

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PAYLOADS = st.dictionaries(
    TEXT, TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.none(), min_size=1, max_size=4
)
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "workflow": st.text(st.characters(categories=["L"]), min_size=1, max_size=5),
        "slo_ms": st.floats(1, 1e6),
        "adapters": st.lists(st.text(st.characters(categories=["L"]), min_size=1), max_size=3),
        "kind": st.sampled_from(["generation", "edit", "inpaint"]),
        "anything": PAYLOADS,
    },
)


@given(st.lists(st.tuples(st.integers(0, 10**6), PAYLOADS, EXTRAS), min_size=1, max_size=6))
def test_written_traces_are_read_as_they_were(drawn: list[tuple[int, dict[str, object], dict[str, object]]]) -> None:
    """Whatever a payload holds, a file gives back the records that were written, at their times."""
    import tempfile

    times = sorted(time for time, _, _ in drawn)
    records = [Record(time, payload, extra) for time, (_, payload, extra) in zip(times, drawn, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in" / "trace.jsonl"
        assert write_native(path, records) == len(records)
        assert list(read_native(path)) == records


def test_the_model_stands_for_a_missing_workflow() -> None:
    """A record that names no workflow is counted under the model it asks for."""
    assert Record(0, {"model": "m"}).workflow == "m"
    assert Record(0, {"model": "m"}, {"workflow": "w"}).workflow == "w"
    assert Record(0, {"prompt": "p"}).workflow == ""
