from xml.etree import ElementTree as ET

from loadgen.charts import Bar, bar_chart


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
