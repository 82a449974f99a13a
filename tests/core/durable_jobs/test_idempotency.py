"""Idempotency keys: what is a key, what is the same request, and what a key used twice is answered with."""

import pytest

from lego_serve.core.durable_jobs.idempotency import check_key, check_replay, fingerprint
from lego_serve.errors import IdempotencyKeyReused, RequestError
from tests.support.jobstore.jobs import new_job


def test_the_order_of_fields_makes_no_other_request() -> None:
    """Clients write their fields in any order, and draw new multipart boundaries."""
    one = fingerprint("/v1/images/edits", {"prompt": "x", "n": 1}, {"image": b"a", "mask": b"b"})
    other = fingerprint("/v1/images/edits", {"n": 1, "prompt": "x"}, {"mask": b"b", "image": b"a"})
    assert one == other


def test_any_other_content_makes_another_request() -> None:
    """Route, values, and what the files hold."""
    base = ("/v1/images/edits", {"prompt": "x"}, {"image": b"a"})
    others = [
        ("/v1/jobs", {"prompt": "x"}, {"image": b"a"}),
        ("/v1/images/edits", {"prompt": "y"}, {"image": b"a"}),
        ("/v1/images/edits", {"prompt": "x"}, {"image": b"b"}),
        ("/v1/images/edits", {"prompt": "x"}, {"mask": b"a"}),
    ]
    assert len({fingerprint(*each) for each in [base, *others]}) == 5


def test_a_key_for_another_request_is_refused() -> None:
    """The caller must see that what it asks for now is not done."""
    earlier = new_job(1, key="k", fingerprint="one")
    check_replay(earlier, "one")
    with pytest.raises(IdempotencyKeyReused) as caught:
        check_replay(earlier, "two")
    assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb"])
def test_what_is_no_key_is_refused(key: str) -> None:
    """Keys are printable ASCII."""
    with pytest.raises(RequestError, match="1 to 255 printable ASCII"):
        check_key(key)
    assert check_key("x" * 255)
