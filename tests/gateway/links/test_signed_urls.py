"""Links with a signature open one path until they expire."""

import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.gateway.errors import Unauthorized
from lego_serve.gateway.links.signed_urls import SETTING, InvalidSignature, LinkExpired, UrlSigner, rotate, url_signer
from lego_serve.jobstore.memory import MemoryJobStore

PATH = "/v1/jobs/job_1/images/0"
NOW = 1_800_000_000.0


def query(link: str) -> tuple[str, str]:
    """The two values of a link's query."""
    values = parse_qs(urlsplit(link).query)
    return values["expires"][0], values["signature"][0]


def opens(signer: UrlSigner, link: str, now: float = NOW) -> bool:
    """Whether a signer lets a link through."""
    try:
        signer.check(urlsplit(link).path, *query(link), now)
    except Unauthorized:
        return False
    return True


def test_a_link_is_an_hmac_over_path_and_time() -> None:
    """Whoever has the secret can make links with any library."""
    digest = hmac.new(b"secret", f"{PATH}|1800000060".encode(), hashlib.sha256).hexdigest()
    assert UrlSigner("secret").sign(PATH, NOW + 60.9) == f"{PATH}?expires=1800000060&signature={digest}"


@given(st.text(max_size=40), st.integers(1, 10**12 - 1), st.text(max_size=40))
def test_a_link_opens_its_own_path_only(path: str, expires: int, other: str) -> None:
    """No other path takes a path's signature, whatever characters are in either."""
    signer = UrlSigner("secret")
    values = query("?" + signer.sign(path, expires).rpartition("?")[2])
    signer.check(path, *values, expires - 1)
    if other != path:
        with pytest.raises(InvalidSignature):
            signer.check(other, *values, expires - 1)


def test_a_link_ends_at_its_second() -> None:
    """It opens until then, and is named as expired afterwards."""
    signer = UrlSigner("secret")
    link = signer.sign(PATH, NOW)
    assert opens(signer, link, NOW - 0.001)
    with pytest.raises(LinkExpired) as refused:
        signer.check(PATH, *query(link), NOW)
    assert (refused.value.status, refused.value.code) == (401, "link_expired")


@pytest.mark.parametrize(
    ("expires", "signature"),
    [
        (None, None),
        ("1800000060", None),
        (None, "0" * 64),
        ("1800000060", "0" * 64),
        ("1800000060", ""),
        ("1800000060", "\u0660" * 64),
        ("1800000060", "0" * 10_000),
        ("", "0" * 64),
        ("-1", "0" * 64),
        ("1e12", "0" * 64),
        ("nan", "0" * 64),
        ("\u0661", "0" * 64),
        ("9" * 5000, "0" * 64),
    ],
)
def test_what_no_server_signed_is_refused(expires: str | None, signature: str | None) -> None:
    """Missing, foreign and unreadable values get 401 and are not sent back."""
    with pytest.raises(InvalidSignature) as refused:
        UrlSigner("secret").check(PATH, expires, signature, NOW)
    assert (refused.value.status, refused.value.code) == (401, "invalid_signature")
    assert not signature or signature not in refused.value.message


def test_a_later_time_is_not_signed() -> None:
    """Who has a link cannot make it last longer, nor write its time in another way."""
    signer = UrlSigner("secret")
    expires, signature = query(signer.sign(PATH, NOW))
    for altered in (str(int(expires) + 1), f"0{expires}", f"+{expires}", f"{expires} "):
        with pytest.raises(InvalidSignature):
            signer.check(PATH, altered, signature, NOW - 1)


def test_a_secret_must_not_be_empty() -> None:
    """An empty secret would sign for everybody."""
    with pytest.raises(ValueError, match="must not be empty"):
        UrlSigner(" ")


async def test_all_gateways_of_a_store_sign_alike() -> None:
    """The first makes the secret, at random; others open its links."""
    store = MemoryJobStore(lambda: NOW, lease_s=15)
    first, second = await url_signer(store), await url_signer(store)
    foreign = await url_signer(MemoryJobStore(lambda: NOW, lease_s=15))
    link = first.sign(PATH, NOW + 60)
    assert opens(second, link)
    assert not opens(foreign, link)


async def test_links_outlive_one_rotation() -> None:
    """After a rotation new links have the new secret and those of the last one open; after two they do not."""
    store = MemoryJobStore(lambda: NOW, lease_s=15)
    old = (await url_signer(store)).sign(PATH, NOW + 60)
    await rotate(store)
    signer = await url_signer(store)
    new = signer.sign(PATH, NOW + 60)
    assert old != new
    assert opens(signer, old)
    assert opens(signer, new)
    await rotate(store)
    assert opens(await url_signer(store), new)
    assert not opens(await url_signer(store), old)


async def test_a_rotation_before_any_secret_makes_the_first() -> None:
    """Nothing was signed yet, so one secret is enough."""
    store = MemoryJobStore(lambda: NOW, lease_s=15)
    await rotate(store)
    assert len((await store.setting(SETTING, "")).split()) == 1
