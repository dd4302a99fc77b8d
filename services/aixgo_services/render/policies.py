"""Who may talk to whom in a cluster: nothing is allowed but what a fleet needs.

Below: `fleet.py`, `pods.py`. Above: `kubernetes.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aixgo_services.needs.keeping import (
    IN_MEMORY_MAIL,
    IN_PROCESS,
    NATS_PORT,
    POSTGRES_PORT,
    MailboxKind,
    MailboxPlace,
    SessionPlace,
    Sessions,
)
from aixgo_services.needs.models import vendors_of
from aixgo_services.render.fleet import (
    AGENT_PORT,
    CONTROL_PLANE_PORT,
    METRICS_PORT,
    MODEL_PORT,
    Component,
    uses_embedded_model,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aixgo.config.schema import Config

    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan

HTTPS, OLLAMA, DNS = 443, 11434, 53
NODE_LOCAL_DNS = "169.254.20.10/32"
"""Where the DNS cache of a node listens, which is no pod."""

_SERVING = (Component.AGENT, Component.ORCHESTRATION)


def network_policies(config: Config, plan: FleetPlan) -> list[Document]:
    """The policies of a fleet, sorted by name.

    Agents take calls from each other, the gateway and the control plane's prober; the gateway from anywhere. Out of
    the fleet go DNS, and from agents TCP to the ports of what the configuration names: vendors, fixed addresses, OTLP;
    from the gateway, too, to that of mailboxes.
    Metrics pages may be read by all pods of the cluster, since nobody knows here where its Prometheus runs.
    """
    mesh = [Component.AGENT, Component.ORCHESTRATION, Component.GATEWAY]
    outside = outside_ports(config, plan.sessions, plan.mailboxes)
    policies = [
        _policy("agents", plan, _SERVING, ingress=[_from(plan, [*mesh, Component.CONTROL_PLANE], AGENT_PORT)]),
        _policy("agents-egress", plan, _SERVING, egress=[{"ports": _tcp(outside)}]),
        _policy("control-plane", plan, [Component.CONTROL_PLANE], ingress=[_from(plan, mesh, CONTROL_PLANE_PORT)]),
        _policy("default-deny", plan, (), ingress=[], egress=[]),
        _policy("fleet-egress", plan, (), egress=[{"to": [_pods(plan, ())]}, _dns()]),
        _policy("gateway", plan, [Component.GATEWAY], ingress=[{"ports": _tcp([AGENT_PORT])}]),
    ]
    if mailbox_ports(plan.mailboxes):
        sent: Document = {"ports": _tcp(mailbox_ports(plan.mailboxes))}
        policies.append(_policy("gateway-egress", plan, [Component.GATEWAY], egress=[sent]))
    if any(workload.metrics for workload in plan.workloads):
        scraped: Document = {"from": [{"namespaceSelector": {}}], "ports": _tcp([METRICS_PORT])}
        policies.append(_policy("metrics", plan, [*mesh, Component.CONTROL_PLANE], ingress=[scraped]))
    if uses_embedded_model(config):
        policies.append(
            _policy("model-server", plan, [Component.MODEL_SERVER], ingress=[_from(plan, _SERVING, MODEL_PORT)])
        )
    return policies


def outside_ports(
    config: Config, sessions: SessionPlace = IN_PROCESS, mailboxes: MailboxPlace = IN_MEMORY_MAIL
) -> list[int]:
    """The TCP ports that agents must reach outside of the fleet, sorted. Where sessions are kept outside of a process,
    that is PostgreSQL in a cluster, whatever the file says; and NATS, where mailboxes are.
    """
    ports = {HTTPS, *(int(address.rpartition(":")[2]) for address in config.deployment.connect.values())}
    if "ollama" in vendors_of(config):
        ports.add(OLLAMA)
    if sessions.kind is not Sessions.MEMORY:
        ports |= {int(each.rpartition(":")[2]) for each in sessions.addresses} or {POSTGRES_PORT}
    ports |= {*mailbox_ports(mailboxes), *(_port(url) for url in _urls(config))}
    return sorted(ports - {0})


def mailbox_ports(mailboxes: MailboxPlace) -> list[int]:
    """The TCP ports of the NATS servers, sorted; none where mailboxes are in memory."""
    if mailboxes.kind is MailboxKind.MEMORY:
        return []
    return sorted({int(each.rpartition(":")[2]) for each in mailboxes.addresses} or {NATS_PORT})


def _urls(config: Config) -> Iterator[str]:
    """Telemetry, MCP servers, and the stores of retrievers."""
    if config.observability.otlp is not None:
        yield config.observability.otlp
    yield from (tool.mcp.url for tool in config.tools if tool.mcp and tool.mcp.url)
    stores = (str(agent.config.get("store", "")) for agent in config.agents if agent.role == "retriever")
    yield from (store for store in stores if store.startswith(("http://", "https://")))


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (80 if parts.scheme == "http" else HTTPS)


def policy_for(name: str, plan: FleetPlan, components: Iterable[str], *, callers: Iterable[str], port: int) -> Document:
    """The policy of what stands beside a fleet: pods of these components take connections of those at this port."""
    return _policy(name, plan, components, ingress=[_from(plan, callers, port)])


def _policy(
    name: str,
    plan: FleetPlan,
    components: Iterable[str],
    *,
    ingress: list[Document] | None = None,
    egress: list[Document] | None = None,
) -> Document:
    rules = {"ingress": ingress, "egress": egress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": plan.name}},
        "spec": {
            **_pods(plan, components),
            "policyTypes": [kind.capitalize() for kind, rule in rules.items() if rule is not None],
            **{kind: rule for kind, rule in rules.items() if rule},
        },
    }


def _pods(plan: FleetPlan, components: Iterable[str]) -> Document:
    """Pods of the fleet; of these components, or of all."""
    wanted = [str(component) for component in components]
    chosen: Document = {"matchLabels": {"app.kubernetes.io/part-of": plan.name}}
    if wanted:
        chosen["matchExpressions"] = [{"key": "app.kubernetes.io/component", "operator": "In", "values": wanted}]
    return {"podSelector": chosen}


def _from(plan: FleetPlan, components: Iterable[str], port: int) -> Document:
    return {"from": [_pods(plan, components)], "ports": _tcp([port])}


def _dns() -> Document:
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    both = [{"protocol": protocol, "port": DNS} for protocol in ("UDP", "TCP")]
    return {"to": [system, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}], "ports": both}


def _tcp(ports: Iterable[int]) -> list[Document]:
    return [{"protocol": "TCP", "port": port} for port in ports]
