"""Where webhooks may be sent, told from the URL alone and from the addresses that its host has."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.receivers import (
    Receiver,
    ReceiverRefused,
    ReceiverRules,
    allowed_entry,
    is_public,
    parse,
)

PUBLIC = ReceiverRules()

LOCAL_SPELLINGS = [
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0X7F.0.0.1/",
    "http://0x/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://api.localhost/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fd00::1]/",
    "http://[ff02::1]/",
    "http://[ff0e::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
]
OTHER_READINGS = [
    "",
    "hooks.example",
    "//hooks.example/",
    "http:hooks.example",
    "http:/hooks.example/",
    "http:///hooks.example/",
    "https://",
    "https://:443/",
    "file:///etc/passwd",
    "gopher://hooks.example:6379/_FLUSHALL",
    "ftp://hooks.example/",
    "unix:///run/docker.sock",
    "http+unix://%2frun%2fdocker.sock/",
    "javascript:alert(1)",
    "http://user@hooks.example/",
    "http://user:word@hooks.example/",
    "http://hooks.example@127.0.0.1/",
    "http://127.0.0.1@hooks.example/",
    "http://hooks.example\\@127.0.0.1/",
    "http://127.0.0.1\\@hooks.example/",
    "http://hooks.example#@127.0.0.1/",
    "http://hooks.example/#fragment",
    "http://hooks.example /",
    " http://hooks.example/",
    "http://hooks.example/\r\nx-evil: 1",
    "http://hooks.example\t/",
    "http://hooks.example/\x00",
    "http://hooks.example/\n",
    "http://hooks.example/\u00e9",
    "http://h\u00f6oks.example/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://\u2460\u2461\u2466.0.0.1/",
    "http://127\u30020.0.1/",
    "http://hooks%2eexample/",
    "http://[::1/",
    "http://[::1]x/",
    "http://[fe80::1%25eth0]/",
    "http://[1.2.3.4]/",
    "http://[hooks.example]/",
    "http://hooks..example/",
    "http://.hooks.example/",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 127}example/",
    "http://hooks.example:0/",
    "http://hooks.example:65536/",
    "http://hooks.example:99999999/",
    "http://hooks.example:-1/",
    "http://hooks.example:80:80/",
    "http://hooks.example:\u0668\u0660/",
    "http://hooks.example:/",
    "http://" + "a" * 3000,
    f"http://hooks.example/{'a' * 2048}",
]


@pytest.mark.parametrize("url", LOCAL_SPELLINGS + OTHER_READINGS)
def test_what_leads_inside_or_has_two_readings_is_refused_at_submit(url: str) -> None:
    """With 400 that names the field, and repeats nothing of its value."""
    with pytest.raises(ReceiverRefused) as refused:
        PUBLIC.check(url)
    told = refused.value
    assert (told.status, told.param, told.code) == (400, "webhook.url", "invalid_webhook_url")
    assert len(url) < 9 or url not in told.message


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://hooks.example", Receiver("https", "hooks.example", 443, "/")),
        ("HTTPS://Hooks.Example./Path?a=b&c=%20", Receiver("https", "hooks.example", 443, "/Path?a=b&c=%20")),
        ("http://hooks.example?x", Receiver("http", "hooks.example", 80, "/?x")),
        ("http://hooks.example:443/", Receiver("http", "hooks.example", 443, "/")),
        ("https://8.8.8.8/", Receiver("https", "8.8.8.8", 443, "/")),
        ("https://[2001:4860:4860:0::8888]/", Receiver("https", "2001:4860:4860::8888", 443, "/")),
        ("https://under_score.xn--hks-sna.example/", Receiver("https", "under_score.xn--hks-sna.example", 443, "/")),
        ("https://1.2.3.4.example/", Receiver("https", "1.2.3.4.example", 443, "/")),
    ],
)
def test_plain_urls_are_taken(url: str, named: Receiver) -> None:
    """Host and scheme in small letters, and the port that the scheme has."""
    assert PUBLIC.check(url) == named


@pytest.mark.parametrize("port", [22, 25, 6379, 8265, 8443])
def test_other_ports_are_refused(port: int) -> None:
    """Unless the operator adds them."""
    url = f"https://hooks.example:{port}/"
    with pytest.raises(ReceiverRefused, match=str(port)):
        PUBLIC.check(url)
    assert ReceiverRules(ports=(port,)).check(url).port == port


def test_a_named_host_may_be_private() -> None:
    """With a port at that one only, without one at the usual ones; nothing like it is meant."""
    rules = ReceiverRules(frozenset({"n8n:5678", "localhost", "10.0.0.5", "[fd00::1]:81"}))
    for url in ("http://n8n:5678/", "http://N8N.:5678/", "http://localhost/", "http://10.0.0.5:443/"):
        rules.check(url)
    rules.check("http://[fd00:0::1]:81/")
    for url in ("http://n8n.:5679/", "http://x.n8n:5678/", "http://localhost:5678/", "http://[fd00::1]/"):
        with pytest.raises(ReceiverRefused):
            rules.check(url)
    assert rules.pinned("n8n", 5678, ["10.0.0.1"]) == ("10.0.0.1",)
    with pytest.raises(ReceiverRefused):
        rules.pinned("n8n", 80, ["10.0.0.1"])


@pytest.mark.parametrize(
    ("entry", "form"),
    [("N8N", "n8n"), ("n8n.:5678", "n8n:5678"), ("[fd00:0::1]:81", "[fd00::1]:81"), ("10.0.0.5", "10.0.0.5")],
)
def test_entries_have_one_form(entry: str, form: str) -> None:
    """That of the host of a URL."""
    assert allowed_entry(entry) == form


@pytest.mark.parametrize("entry", ["", "http://n8n", "n8n/", "n8n:0", "n8n:65536", "*", "*.example", "a@b", "0x7f.1"])
def test_what_no_url_can_name_is_no_entry(entry: str) -> None:
    """Patterns, schemes and paths are none."""
    with pytest.raises(ValueError, match="no ho"):
        allowed_entry(entry)


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    """Which one a connection takes would be chance."""
    assert PUBLIC.pinned("hooks.example", 443, ["8.8.8.8", "2001:4860:4860::8888"])
    for addresses in (["8.8.8.8", "127.0.0.1"], ["::1", "8.8.8.8"], ["fe80::1%eth0"], []):
        with pytest.raises(ReceiverRefused):
            PUBLIC.pinned("hooks.example", 443, addresses)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_no_more_public_inside_ipv6(address: IPv4Address) -> None:
    """Mapped it is what it is; through NAT64, 6to4 and the old embedding it is never public."""
    mapped = IPv6Address(0xFFFF << 32 | int(address))
    assert is_public(str(mapped)) == is_public(str(address))
    for prefix in ("64:ff9b::", "64:ff9b:1::", "::"):
        assert not is_public(str(IPv6Address(int(IPv6Address(prefix)) | int(address))))
    assert not is_public(str(IPv6Address(0x2002 << 112 | int(address) << 80 | 1)))


@given(st.ip_addresses())
def test_no_address_is_public_that_python_calls_otherwise(address: IPv4Address | IPv6Address) -> None:
    """Python's word is needed, and not enough."""
    if is_public(str(address)):
        assert address.is_global
        assert not any((address.is_multicast, address.is_private, address.is_loopback, address.is_link_local))


@given(st.text(max_size=60) | st.from_regex(r"(?i)https?://[a-z0-9.@:\[\]\\#%-]{0,30}[/?]?.{0,10}", fullmatch=True))
def test_whatever_is_taken_has_one_reading(text: str) -> None:
    """Written again from its parts a receiver is the same, and no host of numbers is anything but an address."""
    try:
        found = parse(text)
    except ReceiverRefused:
        return
    assert parse(f"{found.scheme}://{found.name}:{found.port}{found.target}") == found
    assert found.host.isascii()
    if found.host.replace(".", "").isdigit():
        ip_address(found.host)
