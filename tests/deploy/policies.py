"""What NetworkPolicies let through between the pods of one namespace, worked out as Kubernetes does it.

A connection needs two permissions, to leave one pod and to enter the other. A pod that no policy of a direction selects
is open in it; one that some select takes what any of them lets through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Labels = Mapping[str, str]
Policy = dict[str, Any]


def connects(policies: Iterable[Policy], source: Labels, target: Labels, port: int) -> bool:
    """Whether a pod with the labels `source` may open a TCP connection to `port` of one with the labels `target`."""
    known = list(policies)
    return _lets(known, "Egress", source, target, port) and _lets(known, "Ingress", target, source, port)


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a selector is for a pod with these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions), "another operator is not known here"
    exactly: Labels = selector.get("matchLabels", {})
    return exactly.items() <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in expressions)


def _lets(policies: Iterable[Policy], direction: str, own: Labels, other: Labels, port: int) -> bool:
    concerned = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], own)
    ]
    rules = [rule for spec in concerned for rule in spec.get(direction.lower(), [])]
    return not concerned or any(_fits(rule, other, port) for rule in rules)


def _fits(rule: Mapping[str, Any], other: Labels, port: int) -> bool:
    ports = rule.get("ports")
    peers = rule.get("to", rule.get("from"))
    return (ports is None or any(each["protocol"] == "TCP" and each["port"] == port for each in ports)) and (
        peers is None or any(_is_peer(peer, other) for peer in peers)
    )


def _is_peer(peer: Mapping[str, Any], other: Labels) -> bool:
    """Pods of other namespaces and addresses outside of the cluster are nobody of this namespace."""
    if peer.get("namespaceSelector") or "ipBlock" in peer:
        return False
    return selects(peer.get("podSelector", {}), other)
