"""Policies become rules of the kernel that let through what the table of connections allows, and nothing else."""

import re

from deploy.checks.network import GATEWAY, GCS_REDIS, HEAD, INGRESS, INTERNET, STRANGER, Pod
from deploy.checks.tools import Manifest, overlay
from deploy.local.policies import rules

OTHERS = {"10.1.0.2": HEAD, "10.1.0.3": INGRESS, "10.1.0.4": STRANGER, "10.1.0.5": GCS_REDIS}


def lines(own: Pod, manifests: tuple[Manifest, ...] | None = None) -> dict[str, list[str]]:
    """What a pod lets in and out, line by line."""
    text = rules(overlay("prod-ha") if manifests is None else manifests, own, OTHERS)
    return {
        way: [line.strip() for line in body.strip().splitlines()]
        for way, body in re.findall(r"chain (\w+) \{(.*?)\n  \}", text, re.S)
    }


def test_a_gateway_lets_the_ingress_to_its_port_and_ray_to_all() -> None:
    """And no stranger anywhere."""
    found = lines(GATEWAY)
    assert "policy drop;" in found["input"][0]
    assert "ip saddr { 10.1.0.3 } tcp dport 8000 accept" in found["input"]
    assert "ip saddr { 10.1.0.2 } accept" in found["input"]
    assert not any("10.1.0.4" in line for lines in found.values() for line in lines)


def test_the_head_reaches_its_store_and_the_api_server_alone() -> None:
    """A block of addresses stays one."""
    found = lines(HEAD)["output"]
    assert "ip daddr { 10.1.0.5 } tcp dport 6379 accept" in found
    assert "ip daddr { 10.0.0.0/8 } tcp dport 443 accept" in found
    assert "accept" not in found


def test_a_rule_that_nobody_matches_opens_nothing() -> None:
    """Else a policy for pods that are still to come would open a port to all."""
    found = lines(GATEWAY)["output"]
    assert not any(re.match(r"(tcp|udp) dport", line) for line in found)


def test_without_policies_all_is_open() -> None:
    """As in Kubernetes."""
    assert "policy accept;" in lines(INTERNET, ())["input"][0]
