"""What an instance may announce of itself; each refusal names the field."""

from __future__ import annotations

import pytest
from aixgo.errors import InvalidInput, MessageTooLarge
from aixgo.runtime.instance import InstanceState
from aixgo.v1 import agent_pb2
from aixgo.v1 import registry_pb2 as pb
from aixgo.wire.instances import (
    MAX_AGENTS,
    MAX_INSTANCE_BYTES,
    MAX_LABELS_BYTES,
    check_address,
    instance_from_proto,
    read_announcement,
)
from hypothesis import given
from hypothesis import strategies as st


def announcement(**changes) -> pb.Instance:
    fields = {"instance_id": "a", "address": "h:1", "seq": 1, "agents": [agent_pb2.AgentDescriptor(name="echo")]}
    return pb.Instance(**{**fields, **changes})


def agents(*names: str, **fields) -> list[agent_pb2.AgentDescriptor]:
    return [agent_pb2.AgentDescriptor(name=name, **fields) for name in names]


def test_the_least_announcement_is_ready_and_plain():
    read = read_announcement(announcement())
    assert read.state is InstanceState.READY
    assert read.transports == ("plain",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"instance_id": ""}, "instance_id"),
        ({"instance_id": "x" * 129}, "instance_id"),
        ({"seq": 0}, "seq"),
        ({"address": ""}, "address"),
        ({"agents": []}, "agents"),
        ({"agents": agents("a", "b", "a")}, r"agents\[2\]\.name"),
        ({"agents": agents("no spaces")}, r"agents\[0\]\.name"),
        ({"agents": agents(*(f"n{i}" for i in range(1001)))}, "agents"),
        ({"agents": agents("a", role="x" * 129)}, r"agents\[0\]\.role"),
        ({"agents": agents("a", pattern="x" * 129)}, r"agents\[0\]\.pattern"),
        ({"agents": agents("a", agents=["m"] * 1001)}, r"agents\[0\]\.agents"),
        ({"agents": agents("a", agents=["m" * 300])}, r"agents\[0\]\.agents"),
        ({"state": 9}, "state"),
        ({"version": "x" * 129}, "version"),
        ({"transports": ["x"] * 17}, "transports"),
        ({"transports": ["x" * 129]}, "transports"),
        ({"labels": {str(i): "" for i in range(65)}}, "labels"),
        ({"labels": {"k" * 129: ""}}, "labels"),
        ({"labels": {"zone": "x" * 1025}}, r"labels\['zone'\]"),
    ],
)
def test_what_cannot_be_listed_is_refused_by_field(changes: dict, field: str):
    with pytest.raises(InvalidInput, match=rf"instance\.{field}"):
        read_announcement(announcement(**changes))


def test_an_id_is_bounded_in_bytes_because_it_is_remembered():
    assert read_announcement(announcement(instance_id="é" * 64)).instance_id == "é" * 64
    with pytest.raises(InvalidInput, match=r"instance\.instance_id has 130 bytes; at most 128"):
        read_announcement(announcement(instance_id="é" * 65))


@pytest.mark.parametrize(
    ("changes", "field", "limit"),
    [
        ({"agents": agents(*map("a{}".format, range(16)), agents=["m" * 250] * 900)}, "agents", MAX_INSTANCE_BYTES),
        ({"labels": {f"{n:04}": "é" * 1_000 for n in range(60)}}, "labels", MAX_LABELS_BYTES),
    ],
)
def test_too_many_bytes_are_refused_by_field_and_limit(changes: dict, field: str, limit: int):
    with pytest.raises(
        MessageTooLarge, match=rf"instance\.{field}: \d+ bytes .* at most {limit} are allowed"
    ) as caught:
        read_announcement(announcement(**changes))
    assert caught.value.fields == {"field": f"instance.{field}", "limit": limit}


def test_a_thousand_agents_with_long_roles_can_be_listed():
    many = agents(*(f"agent-number-{n:04}" for n in range(MAX_AGENTS)), role="r" * 100, agents=["member-one"] * 8)
    assert len(read_announcement(announcement(agents=many)).agents) == MAX_AGENTS


@pytest.mark.parametrize("address", ["h:1", ":65535", "10.0.0.1:80", "[::1]:80", "a.b-c.svc.cluster.local:50051"])
def test_these_addresses_can_be_reached(address: str):
    check_address(address)


@pytest.mark.parametrize(
    "address", ["h", "h:", "h:0", "h:65536", "h:-1", "h:x", "h:٣", "::1:80", "unix:/a:1", "a b:1", "x" * 254 + ":1"]
)
def test_these_are_no_addresses(address: str):
    with pytest.raises(InvalidInput, match=r"instance\.address"):
        check_address(address)


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "*:50051"])
def test_an_address_that_stands_for_all_hosts_is_refused_with_the_fix(address: str):
    with pytest.raises(InvalidInput, match="AIXGO_ADVERTISE_ADDRESS"):
        check_address(address)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused_by_field(text: str):
    try:
        check_address(text)
    except InvalidInput:
        with pytest.raises(InvalidInput, match=r"instance\.address"):
            check_address(text)
    else:
        assert 0 < int(text.rpartition(":")[2]) < 65_536


def test_a_state_that_only_a_newer_control_plane_knows_takes_no_calls():
    assert instance_from_proto(announcement(state=9)).state is InstanceState.NOT_READY
