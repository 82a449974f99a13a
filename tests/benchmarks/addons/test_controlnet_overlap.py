"""The trace of two ControlNets: passes as steps, and for how long both ran at once."""

from benchmarks.addons.controlnet_overlap import markdown, rows_of


def test_passes_become_steps_from_the_first_beginning_on() -> None:
    """In milliseconds; both at once is where they overlap, and nothing where they do not."""
    first, second = [[10.0, 10.010], [10.030, 10.040]], [[10.005, 10.020], [10.041, 10.050]]
    rows = rows_of(first, second)
    assert [tuple(round(ms, 3) for ms in row.first) for row in rows] == [(0, 10), (30, 40)]
    assert [round(row.together_ms, 3) for row in rows] == [5, 0]
    assert [round(row.share, 3) for row in rows] == [0.5, 0]


def test_the_table_has_a_line_a_step_and_says_how_much_overlaps() -> None:
    """The median and the worst step."""
    text = markdown(rows_of([[0.0, 0.010], [0.1, 0.110]], [[0.005, 0.020], [0.1, 0.110]]))
    assert "| 0 | 0.0 to 10.0 | 5.0 to 20.0 | 5.0 | 50% |" in text
    assert text.endswith("Both at once for 75% of the shorter pass (median; least 50%).")
