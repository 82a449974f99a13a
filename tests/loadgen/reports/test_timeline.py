from xml.etree import ElementTree as ET

from loadgen.reports.timeline import MOST_DOTS, timeline


def test_dots_lie_on_common_axes_that_end_at_round_numbers() -> None:
    """A later and larger value lies further right and higher, and the last tick is easy to read."""
    svg = ET.fromstring(timeline({"met": [(1.0, 0.2)], "missed": [(6.4, 0.9)]}, "title & more", "seconds"))
    early, late = (dot.attrib for dot in svg.iter("circle"))
    assert float(early["cx"]) < float(late["cx"])
    assert float(early["cy"]) > float(late["cy"])
    texts = [text.text for text in svg.iter("text")]
    assert {"7.5", "1"} <= set(texts)


def test_very_many_dots_are_thinned_out() -> None:
    """A page stays light however many requests a run had."""
    points = [(float(index), 1.0) for index in range(10 * MOST_DOTS)]
    assert len(list(ET.fromstring(timeline({"met": points}, "t", "x")).iter("circle"))) == MOST_DOTS


def test_timeline_of_nothing() -> None:
    """A run without requests of a kind shows none of it."""
    assert not list(ET.fromstring(timeline({"met": []}, "t", "x")).iter("circle"))
