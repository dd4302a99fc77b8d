"""Configurations of every shape, and what any rendering of one must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aixgo.agent import NAME
from aixgo.config.schema import Config, DeploymentSpec, OrchestrationSpec, PlacementSpec
from aixgo.config.spec import AgentSpec
from aixgo_services.render.fleet import Source
from hypothesis import strategies as st

AWKWARD = [
    "gateway",
    "control-plane",
    "model-server",
    "a",
    "A",
    "a_b",
    "a.b",
    "a-b",
    "1",
    "-",
    "x" * 128,
    "a-" + "0" * 10,
]
NAMES = st.one_of(
    st.sampled_from(AWKWARD),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", fullmatch=True),
).filter(lambda name: NAME.fullmatch(name) is not None)
MODELS = st.sampled_from(["local/smollm2-135m", "openai/gpt-4o-mini", "ollama/llama3.2", "test/echo"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=60)
PLACEMENTS = st.builds(
    PlacementSpec, replicas=st.integers(1, 9), image=st.none() | st.just("registry.example.com/mine:1")
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A valid configuration of a few agents and orchestrations with any names."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    count = draw(st.integers(1, len(names)))
    agents = tuple(
        AgentSpec(
            name=name,
            role=draw(st.sampled_from(["llm", "desk:Ticket"])),
            model=tuple(draw(st.lists(MODELS, max_size=2))),
        )
        for name in names[:count]
    )
    patterns = tuple(OrchestrationSpec(name=name, pattern="parallel", agents=(names[0],)) for name in names[count:])
    placed = draw(st.dictionaries(st.sampled_from(names), PLACEMENTS))
    connect = draw(st.dictionaries(st.just("far"), st.sampled_from(["host:7000", "dns:///host:7001"])))
    deployment = DeploymentSpec(mode="distributed", agents=placed, connect=connect)
    return Config(version=2, agents=agents, orchestrations=patterns, deployment=deployment)


def sources() -> st.SearchStrategy[Source]:
    """The texts of a fleet: any, since what they say has been read before."""
    modules = st.dictionaries(st.sampled_from(["desk.py", "other.py"]), TEXTS)
    return st.builds(Source, st.sampled_from(["desk", "Support Desk", "1st"]), TEXTS, modules)


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def violations(objects: list[dict[str, Any]]) -> Iterator[str]:
    """What the restricted pod standard forbids in the pods of Deployments and StatefulSets; nothing where they pass.

    Written from the standard's own list of controls, those of its baseline profile included.
    """
    for name, each in (of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet")).items():
        pod = each["spec"]["template"]["spec"]
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(key):
                yield f"{name}: {key}"
        allowed = {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }
        for volume in pod.get("volumes", []):
            if not set(volume) - {"name"} <= allowed:
                yield f"{name}: volume {volume['name']}"
        of_pod = pod.get("securityContext", {})
        for key in ("sysctls", "windowsOptions", "seLinuxOptions"):
            if key in of_pod:
                yield f"{name}: {key}"
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            for problem in _container(container, of_pod):
                yield f"{name}/{container['name']}: {problem}"


def _container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    effective = of_pod | own
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "has capabilities"
    if effective.get("runAsNonRoot") is not True or effective.get("runAsUser") == 0:
        yield "may run as root"
    if effective.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "has no seccomp profile"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"
    if own.get("procMount", "Default") != "Default":
        yield "sees all of /proc"
    probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "readiness", "liveness")]
    if any("host" in action for probe in probes for action in probe.values() if isinstance(action, dict)):
        yield "is probed at another host"
