from dataclasses import replace

import pytest

from benchmarks.hostile import report
from benchmarks.hostile.wire import OPEN, UNANSWERED

OUTCOME = report.Outcome(
    "a header of 200 MB", "abc1234", {"431": 1}, 0.04, 70_000, 0.021, 0.05, 0, 0.02,
    (150_000_000, 151_000_000, 150_500_000), was_replaced=False,
)  # fmt: skip


def test_a_row_says_how_it_went() -> None:
    """Seconds, megabytes and the answer; nothing of failures where there are none."""
    assert report.row(OUTCOME) == (
        "a header of 200 MB", "abc1234", "431", "0.0 s", "0.1 MB", "0.02 s", "0.05 s", "0.0 s", "150, 151, 150 MB",
    )  # fmt: skip


def test_a_row_says_what_is_not_known() -> None:
    """A process that is not known has no memory; one that has ended, or is stuck, was replaced."""
    *_, processor, memory = report.row(replace(OUTCOME, processor_s=None, rss=None))
    assert (processor, memory) == ("-", "-")
    *_, wait, processor, memory = report.row(
        replace(OUTCOME, processor_s=None, rss=(150_000_000, 2_000_000_000, None), was_replaced=True, failed=1200)
    )
    assert (wait, processor, memory) == ("0.05 s, 1,200 failed", "-", "150, 2,000, ended MB; replaced")


@pytest.mark.parametrize(
    ("answers", "said", "when"),
    [
        ({"200": 1}, "200", "9.0 s"),
        ({"429": 2744, "200": 256}, "2,744 x 429, 256 x 200", "9.0 s"),
        ({OPEN: 150}, "150 x still open", "not within 9 s"),
        ({"closed": 149, UNANSWERED: 1}, "149 x closed, 1 x no answer", "not within 9 s"),
    ],
)
def test_many_answers_are_counted(answers: dict[str, int], said: str, when: str) -> None:
    """The most frequent first; one that is not over makes the whole attack not over."""
    outcome = replace(OUTCOME, answers=answers, seconds=9.0)
    assert report.answered(answers) == said
    assert report.after(outcome) == when


def test_a_page_keeps_what_is_above_its_results() -> None:
    """Writing the same results again changes nothing."""
    page = f"# Title\n\nWords.\n\n{report.RESULTS}\n\nold\n"
    results = report.table([OUTCOME])
    once = report.with_results(page, results)
    assert once == f"# Title\n\nWords.\n\n{report.RESULTS}\n\n{results}"
    assert report.with_results(once, results) == once
    assert {line.count("|") for line in results.splitlines()} == {len(report.COLUMNS) + 1}
