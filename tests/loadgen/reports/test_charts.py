from xml.etree import ElementTree as ET

from loadgen.reports.charts import Bar, Curve, bar_chart, plot


def test_bars_share_a_scale() -> None:
    """A bar twice as long stands for twice the value."""
    svg = ET.fromstring(bar_chart([Bar("one", "lego", 1.0, "1"), Bar("two", "baseline", 2.0, "2")], "title"))
    one, two = (float(rect.attrib["width"]) for rect in svg.iter("rect"))
    assert round(two / one, 2) == 2.0


def test_text_is_escaped() -> None:
    """Labels and titles may hold anything; the chart stays well-formed."""
    svg = ET.fromstring(bar_chart([Bar("<a> & b", "lego", 0.0, "0 < 1")], 'say "x"'))
    assert "<a> & b" in [text.text for text in svg.iter("text")]


def test_whiskers_only_where_known() -> None:
    """A whisker is drawn where lowest and highest differ."""
    bars = [
        Bar("a", "lego", 1.0, "", low=0.5, high=1.5),
        Bar("b", "lego", 1.0, ""),
        Bar("c", "lego", 1, "", low=1, high=1),
    ]
    assert len(list(ET.fromstring(bar_chart(bars, "t")).iter("path"))) == 1


def test_curves_share_their_axes() -> None:
    """All curves lie on one scale that begins at zero, and a larger share lies higher."""
    curves = [Curve("lego", [(0.0, 0.0), (1.0, 1.0)]), Curve("baseline", [(2.0, 0.5)], dots=True)]
    svg = ET.fromstring(plot(curves, "title", "seconds & more", mark=0.9))
    line = next(svg.iter("polyline")).attrib["points"].split()
    (left, bottom), (middle, top) = (tuple(map(float, point.split(","))) for point in line)
    dot = next(svg.iter("circle")).attrib
    assert middle - left == float(dot["cx"]) - middle
    assert top < float(dot["cy"]) < bottom
    assert "seconds & more" in [text.text for text in svg.iter("text")]
    assert [path.attrib["class"] for path in svg.iter("path")].count("mark") == 1


def test_plot_of_nothing() -> None:
    """A plot without points is an empty frame, not an error."""
    assert not list(ET.fromstring(plot([Curve("lego", [])], "t", "s")).iter("circle"))
