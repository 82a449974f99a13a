"""NetworkPolicies as rules that the kernel enforces in a pod's own network."""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.checks.network import Pod as End
from deploy.checks.network import is_peer, selects
from deploy.checks.tools import Manifest

WAYS = (("Ingress", "ingress", "from", "input", "saddr"), ("Egress", "egress", "to", "output", "daddr"))


def rules(manifests: Iterable[Manifest], own: End, others: Mapping[str, End]) -> str:
    """What `nft` is told in the network of ``own``, a pod of the policies' namespace; ``others`` are by address.

    A pod that no policy of a direction selects talks to everybody in that direction, as Kubernetes says.
    """
    policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]
    lines = ["flush ruleset", "table inet pods {"]
    for kind, key, peers, hook, field in WAYS:
        chosen = [each for each in policies if kind in each["policyTypes"] and selects(each["podSelector"], own.labels)]
        lines.append(f"  chain {hook} {{")
        lines.append(f"    type filter hook {hook} priority 0; policy {'drop' if chosen else 'accept'};")
        lines.append(f"    {'iif' if hook == 'input' else 'oif'} lo accept")
        lines.append("    ct state established,related accept")
        for policy in chosen:
            lines += [f"    {line}" for rule in policy.get(key, ()) for line in _lines(rule, peers, field, others)]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _lines(rule: Mapping[str, Any], peers: str, field: str, others: Mapping[str, End]) -> Iterable[str]:
    """One rule of a policy: an address for each peer that is there now, and blocks of addresses as they are."""
    places = [""]
    if peers in rule:
        named = [address for address, end in others.items() if any(is_peer(peer, end) for peer in rule[peers])]
        blocks = [peer["ipBlock"]["cidr"] for peer in rule[peers] if "ipBlock" in peer]
        places = [f"ip {field} {{ {', '.join(sorted({*named, *blocks}))} }} "] if named or blocks else []
    for place in places:
        if "ports" not in rule:
            yield f"{place}accept"
        for each in rule.get("ports", ()):
            yield f"{place}{each.get('protocol', 'TCP').lower()} dport {each['port']} accept"
