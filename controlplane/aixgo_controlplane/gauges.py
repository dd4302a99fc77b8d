"""What a control plane lists and who follows it, for whoever collects metrics. Below it lie registry and service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aixgo.runtime.instance import InstanceState
from aixgo.telemetry.metrics import Reading

from aixgo_controlplane.registry import Registry
from aixgo_controlplane.service import RegistryService


class RegistryGauges:
    """The gauges and totals of a control plane: a source for `aixgo.telemetry.metrics.observe`."""

    def __init__(self, registry: Registry, service: RegistryService) -> None:
        self._registry = registry
        self._service = service

    def readings(self) -> Iterable[Reading]:
        """The listed instances by state, who came and expired, and the watchers; called from another thread."""
        states = Counter(instance.state for instance in self._registry.list())
        for state in InstanceState:
            yield "aixgo.registry.instances", states[state], {"aixgo.instance.state": state.name.lower()}
        yield "aixgo.registry.registrations", self._registry.registrations, {}
        yield "aixgo.registry.expirations", self._registry.expirations, {}
        yield "aixgo.registry.watchers", self._service.watchers, {}
