"""Instances and the control plane's updates, between Python records and aixgo.v1.

Owns the validation of what an instance announces of itself (`read_announcement`), and the limits on its size. What a
control plane sends (`update_from_proto`) was validated there and is taken as it is, so that a newer control plane
cannot break older clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aixgo.agent import NAME
from aixgo.errors import InvalidInput, MessageTooLarge
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.updates import Removal, Update
from aixgo.v1 import agent_pb2, registry_pb2

MAX_INSTANCE_BYTES = 256 * 1024
"""Bytes of what one instance announces: room for 1,000 agents with names, roles and a few members."""
MAX_AGENTS = 1_000
"""Agents of one instance; also members of one orchestrator."""
MAX_LABELS = 64
"""Labels of one instance."""
MAX_LABEL = 1_024
"""Characters of a label's value."""
MAX_LABELS_BYTES = 64 * 1024
"""Bytes of all labels of one instance, keys and values."""
MAX_WORD = 128
"""Characters of a role, a version, a transport's name or a label's key; bytes of an instance's id, which a control
plane remembers when the instance is gone."""
MAX_HOST = 253
"""Characters of a host; the longest name that DNS knows."""
MAX_TRANSPORTS = 16
"""Ways of calling one instance."""

_WILDCARDS = frozenset({"0.0.0.0", "[::]", "::", "*"})  # noqa: S104  # they are refused here, not bound
_STATES = frozenset(InstanceState)
_LARGEST_SEQ = 2**64 - 1


def agent_to_proto(agent: AgentInfo) -> agent_pb2.AgentDescriptor:
    """An agent's description as a message."""
    return agent_pb2.AgentDescriptor(
        name=agent.name,
        role=agent.role,
        idempotent=agent.idempotent,
        pattern=agent.pattern,
        agents=agent.agents,
        ready=agent.ready,
    )


def agent_from_proto(agent: agent_pb2.AgentDescriptor) -> AgentInfo:
    """An agent's description out of a message."""
    return AgentInfo(agent.name, agent.role, agent.idempotent, agent.pattern, tuple(agent.agents), agent.ready)


def instance_to_proto(instance: Instance) -> registry_pb2.Instance:
    """An instance as a message."""
    return registry_pb2.Instance(
        instance_id=instance.instance_id,
        address=instance.address,
        seq=instance.seq,
        agents=[agent_to_proto(agent) for agent in instance.agents],
        state=registry_pb2.InstanceState.ValueType(instance.state),
        transports=instance.transports,
        version=instance.version,
        labels=instance.labels,
    )


def instance_from_proto(instance: registry_pb2.Instance) -> Instance:
    """An instance out of a message. A state that is not known here takes no calls."""
    return Instance(
        instance.instance_id,
        instance.address,
        instance.seq,
        tuple(agent_from_proto(agent) for agent in instance.agents),
        InstanceState(instance.state) if instance.state in _STATES else InstanceState.NOT_READY,
        tuple(instance.transports) or ("plain",),
        instance.version,
        dict(instance.labels),
    )


def update_to_proto(
    update: Update,
    encoded: Iterable[registry_pb2.Instance] | None = None,
    described: Iterable[agent_pb2.AgentDescriptor] | None = None,
) -> registry_pb2.WatchResponse:
    """A control plane's update as a message; `encoded` and `described` are its changed instances and its agents when
    they stand ready.
    """
    if encoded is None:
        encoded = map(instance_to_proto, update.changed)
    if described is None:
        described = map(agent_to_proto, update.agents)
    return registry_pb2.WatchResponse(
        epoch=update.epoch,
        version=update.version,
        snapshot=update.snapshot,
        changed=encoded,
        removed=[
            registry_pb2.RemovedInstance(instance_id=gone.instance_id, seq=gone.seq, expired=gone.expired)
            for gone in update.removed
        ],
        lease_ms=round(update.lease * 1000),
        agents=described,
        ended_agents=update.ended,
    )


def update_from_proto(response: registry_pb2.WatchResponse) -> Update:
    """A control plane's update out of a message."""
    return Update(
        response.epoch,
        response.version,
        response.snapshot,
        tuple(map(instance_from_proto, response.changed)),
        tuple(Removal(gone.instance_id, gone.seq, gone.expired) for gone in response.removed),
        response.lease_ms / 1000,
        tuple(map(agent_from_proto, response.agents)),
        tuple(response.ended_agents),
    )


def listed_bytes(instance: Instance) -> int:
    """The bytes of an instance where it is listed, at most: its state, its `seq` and the readiness of its agents may
    change without its getting larger.
    """
    message = instance_to_proto(instance)
    message.seq, message.state = _LARGEST_SEQ, registry_pb2.INSTANCE_STATE_DRAINING
    for agent in message.agents:
        agent.ready = True
    return message.ByteSize()


def read_announcement(message: registry_pb2.Instance) -> Instance:
    """What an instance announces of itself.

    A state that is not said is READY. The address may lack its host (":50051"). Raises InvalidInput, naming the field,
    when it cannot be listed, and MessageTooLarge when it has too many bytes.
    """
    check_instance_id("instance.instance_id", message.instance_id)
    if message.seq < 1:
        raise InvalidInput("instance.seq is 0; begin with 1 and add 1 for each announcement")
    check_address(message.address)
    _check_extras(message)
    _check_bytes("instance.agents", message.ByteSize(), MAX_INSTANCE_BYTES)  # all else is bounded by now
    _check_agents(message.agents)
    if message.state == registry_pb2.INSTANCE_STATE_UNSPECIFIED:
        return instance_from_proto(message).with_state(InstanceState.READY)
    if message.state not in _STATES:
        raise InvalidInput(f"instance.state is {message.state}; use READY (1), NOT_READY (2) or DRAINING (3)")
    return instance_from_proto(message)


def check_instance_id(field: str, instance_id: str) -> None:
    """Raise InvalidInput, naming the field, unless it can be the id of an instance."""
    if not instance_id:
        raise InvalidInput(f"{field} is empty; choose a unique one (32 hexadecimal digits) per process")
    size = len(instance_id.encode())
    if size > MAX_WORD:
        raise InvalidInput(f"{field} has {size} bytes; at most {MAX_WORD} are allowed")


def check_address(address: str) -> None:
    """Raise InvalidInput unless `address` is host:port, [IPv6]:port or :port, and one that callers can reach."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise InvalidInput(f"instance.address is {address!r}; write host:port, or :port for the host that is seen")
    if host in _WILDCARDS:
        raise InvalidInput(
            f"instance.address is {address!r}, which no caller can reach; advertise a host"
            f" (AIXGO_ADVERTISE_ADDRESS), or :{port} for the host that the control plane sees"
        )
    bracketed = host.startswith("[") and host.endswith("]")
    if (":" in host and not bracketed) or "/" in host or any(c.isspace() for c in host):
        raise InvalidInput(f"instance.address is {address!r}; write host:port, with an IPv6 host in [brackets]")
    _check_length("instance.address", host, MAX_HOST)


def _check_agents(agents: Iterable[agent_pb2.AgentDescriptor]) -> None:
    seen: set[str] = set()
    for index, agent in enumerate(agents):
        field = f"instance.agents[{index}]"
        if index >= MAX_AGENTS:
            raise InvalidInput(f"instance.agents has more than {MAX_AGENTS} entries; spread them over instances")
        if not NAME.fullmatch(agent.name):
            raise InvalidInput(
                f"{field}.name is {agent.name[:MAX_WORD]!r}; use 1 to 128 letters, digits, '_', '.', '-'"
            )
        if agent.name in seen:
            raise InvalidInput(f"{field}.name is {agent.name!r} for a second time; name each agent once")
        if len(agent.agents) > MAX_AGENTS:
            raise InvalidInput(f"{field}.agents has {len(agent.agents)} entries; at most {MAX_AGENTS} are allowed")
        _check_length(f"{field}.role", agent.role, MAX_WORD)
        _check_length(f"{field}.pattern", agent.pattern, MAX_WORD)
        for member in agent.agents:
            _check_length(f"{field}.agents", member, MAX_WORD + MAX_WORD)
        seen.add(agent.name)
    if not seen:
        raise InvalidInput("instance.agents is empty; name one agent at least")


def _check_extras(message: registry_pb2.Instance) -> None:
    _check_length("instance.version", message.version, MAX_WORD)
    if len(message.transports) > MAX_TRANSPORTS:
        raise InvalidInput(f"instance.transports has {len(message.transports)} entries; at most {MAX_TRANSPORTS}")
    for transport in message.transports:
        _check_length("instance.transports", transport, MAX_WORD)
    labels: Mapping[str, str] = message.labels
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"instance.labels has {len(labels)} entries; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        _check_length("a key of instance.labels", key, MAX_WORD)
        _check_length(f"instance.labels[{key!r}]", value, MAX_LABEL)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in labels.items())
    _check_bytes("instance.labels", size, MAX_LABELS_BYTES)


def _check_bytes(field: str, size: int, limit: int) -> None:
    if size > limit:
        raise MessageTooLarge(
            f"{field}: {size} bytes are announced; at most {limit} are allowed. Say less, or use more instances",
            fields={"field": field, "limit": limit},
        )


def _check_length(field: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise InvalidInput(f"{field} has {len(value)} characters; at most {limit} are allowed")
