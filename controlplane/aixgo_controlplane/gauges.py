"""How many instances a registry lists, for whoever collects metrics. Below it lies the registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aixgo.runtime.instance import InstanceState
from aixgo.telemetry.metrics import Reading

from aixgo_controlplane.registry import Registry


class RegistryGauges:
    """The gauges of a registry: a source for `aixgo.telemetry.metrics.observe`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def readings(self) -> Iterable[Reading]:
        """The listed instances by state; called from another thread."""
        states = Counter(instance.state for instance in self._registry.list())
        for state in InstanceState:
            yield "aixgo.registry.instances", states[state], {"aixgo.instance.state": state.name.lower()}
