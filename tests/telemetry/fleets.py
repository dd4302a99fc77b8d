"""Waiting for a fleet of `aixgo serve` processes: each serves before a control plane lists it."""

from __future__ import annotations

from collections.abc import Collection

from aixgo import DistributedRuntime

from tests.support import eventually


async def listed(control_plane: str, names: Collection[str]) -> None:
    """Return when the control plane lists all these agents; raises TimeoutError when it does not."""
    async with DistributedRuntime(control_plane=(control_plane,)) as runtime:
        await eventually(lambda: set(names) <= set(runtime.list_agents()))
