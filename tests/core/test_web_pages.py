"""Which requests a web page may make a browser send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.web_pages import PagePolicy, PageRequest, host_name, is_loopback, is_same_origin

OPEN = PagePolicy(frozenset({"lab.example"}), ("https://app.example",), is_open=True)
POST = "/v1/images/generations"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("LAB.example.", "lab.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("my_host", "my_host"),
        ("a:", "a"),
        ("", None),
        ("a/?#@b", None),
        ("a@b", None),
        ("a:b", None),
        ("a:65536", None),
        ("::1", None),
        ("[::1", None),
        (".", None),
    ],
)
def test_a_host_header_is_a_name_and_a_port(header: str, name: str | None) -> None:
    """In small letters, without the port; anything else is none."""
    assert host_name(header) == name


@given(st.text())
def test_any_text_is_a_name_or_none(header: str) -> None:
    """A name has nothing in it that ends one in a URL."""
    name = host_name(header)
    assert name is None or not set(name) & set("/?#@[] \t\r\n")


@pytest.mark.parametrize("name", ["localhost", "a.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_names_of_loopback(name: str) -> None:
    """They are this machine whatever a name server says."""
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["localhost.example", "127.0.0.1.example", "10.0.0.1", "0.0.0.0", "evillocalhost"])
def test_names_that_only_look_like_loopback(name: str) -> None:
    """A page can make them lead anywhere."""
    assert not is_loopback(name)


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("https://lab.example", "lab.example", True),
        ("https://lab.example", "lab.example:443", True),
        ("http://lab.example:80", "LAB.example", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:3000", "localhost:8000", False),
        ("http://localhost", "localhost:8000", False),
        ("null", "localhost", False),
        ("file://localhost", "localhost", False),
        ("http://localhost", None, False),
    ],
)
def test_an_origin_is_the_hosts_own(origin: str, host: str | None, is_same: bool) -> None:
    """By name and port; a proxy may have taken TLS away."""
    assert is_same_origin(origin, host) is is_same


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (PageRequest("GET", "/v1/models", "localhost"), None),
        (PageRequest("GET", "/v1/models", "lab.example:80"), None),
        (PageRequest("GET", "/v1/models", "evil.example"), "misdirected"),
        (PageRequest("POST", POST, "evil.example", "http://evil.example", "same-origin"), "misdirected"),
        (PageRequest("GET", "/v1/models"), None),
        (PageRequest("POST", POST, "localhost"), None),
        (PageRequest("POST", POST, "localhost", "http://localhost"), None),
        (PageRequest("POST", POST, "localhost", "https://app.example", "cross-site"), None),
        (PageRequest("POST", POST, "localhost", "https://evil.example"), "cross_site"),
        (PageRequest("POST", POST, "localhost", "null"), "cross_site"),
        (PageRequest("POST", POST, "localhost", "http://localhost:3000", "same-site"), "cross_site"),
        (PageRequest("POST", POST, "localhost", None, "cross-site"), "cross_site"),
        (PageRequest("POST", POST, "localhost", None, "same-origin"), None),
        (PageRequest("DELETE", "/v1/templates/a", "localhost", "https://evil.example"), "cross_site"),
        (PageRequest("GET", "/v1/models", "localhost", "https://evil.example", "cross-site"), None),
        (PageRequest("GET", "/v1/admin/jobs", "localhost", None, "cross-site"), "cross_site"),
        (PageRequest("GET", "/v1/admin/jobs", "localhost", None, "none"), None),
        (PageRequest("GET", "/v1/admin/jobs", "localhost", "https://app.example", "cross-site"), None),
    ],
)
def test_what_a_page_may_do_where_everybody_is_an_admin(request_: PageRequest, refusal: str | None) -> None:
    """Nothing unsafe, and nothing of the admin's, but from a page of the server's own or a configured one."""
    assert OPEN.refusal(request_) == refusal


@given(st.builds(PageRequest, st.sampled_from(["GET", "POST"]), st.just(POST), *[st.none() | st.text()] * 3))
def test_keys_make_pages_harmless(request_: PageRequest) -> None:
    """A page has none, so nothing is refused for where it comes from."""
    assert PagePolicy().refusal(request_) is None
