"""What a request used, counted in tokens."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult, TaskStats
from lego_serve.core.token_usage import image_tokens, token_usage


@given(
    st.integers(1, 64), st.integers(1, 64), st.integers(1, 10), st.integers(0, 3), st.booleans(),
    st.lists(st.integers(0, 512), max_size=3),
)  # fmt: skip
def test_the_parts_make_up_the_whole(rows, columns, n, controls, is_edit, texts) -> None:
    """Images count by their area, those given as much as those made; text is all that was encoded."""
    inputs = {"controlnet": ("a control",) * controls, "prompt": "a"} | ({"edit": "an edit"} if is_edit else {})
    images = tuple(GeneratedImage(16 * columns, 16 * rows, b"", seed) for seed in range(n))
    stats = {f"text {i}": TaskStats(text_tokens=tokens) for i, tokens in enumerate(texts)}
    usage = token_usage(Job("job-1", "a", inputs, 0.0), JobResult(images, 0.0, stats=stats))
    assert usage["output_tokens"] == usage["output_tokens_details"]["image_tokens"] == n * rows * columns
    assert usage["input_tokens_details"] == {
        "image_tokens": (controls + is_edit) * rows * columns,
        "text_tokens": sum(texts),
    }
    assert usage["input_tokens"] == sum(usage["input_tokens_details"].values())
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_part_of_a_token_is_one() -> None:
    """No image is free."""
    assert (image_tokens(1, 1), image_tokens(17, 16), image_tokens(128, 96)) == (1, 2, 48)
