"""What the doctor says of ports, control planes and containers."""

from __future__ import annotations

import json

import pytest
from aixgo.config.load import loads
from aixgo_services.doctor.findings import Level
from aixgo_services.doctor.surroundings import Network, check_control_plane, check_engine, check_ports

ADDRESS = "localhost:50050"


def network(listening=(), listed=None):
    """A network in which somebody listens at these addresses, and control planes list so many instances."""

    async def is_listening(address):
        return address in listening

    async def lists(address):
        return (listed or {}).get(address)

    return Network(is_listening, lists)


def machine(**commands):
    """A machine on which these commands, by their first words, end so."""

    async def run(command):
        return commands.get("_".join(command[:2]))

    return run


async def test_a_free_port_is_fine_where_nobody_needs_a_control_plane():
    found = await check_control_plane(ADDRESS, network(), needed=False)
    assert found.level is Level.OK
    assert "the port is free" in found.what


async def test_a_host_elsewhere_without_a_control_plane_says_nothing_of_ports():
    found = await check_control_plane("plane.example:50050", network(), needed=False)
    assert found.level is Level.OK
    assert "port" not in found.what


async def test_no_control_plane_is_a_problem_for_a_file_that_needs_one():
    found = await check_control_plane(ADDRESS, network(), needed=True)
    assert found.level is Level.PROBLEM
    assert "aixgo controlplane" in found.fix


@pytest.mark.parametrize(("count", "text"), [(0, "0 instances"), (1, "1 instance"), (5, "5 instances")])
async def test_a_control_plane_that_answers_says_how_many_it_lists(count, text):
    found = await check_control_plane(ADDRESS, network([ADDRESS], {ADDRESS: count}), needed=True)
    assert (found.level, found.what) == (Level.OK, f"{ADDRESS} answers, and lists {text}")


@pytest.mark.parametrize(("needed", "level"), [(True, Level.PROBLEM), (False, Level.WARNING)])
async def test_something_else_on_the_port_is_told(needed, level):
    found = await check_control_plane(ADDRESS, network([ADDRESS]), needed=needed)
    assert found.level is level
    assert "it is no control plane" in found.what


async def test_ports_that_the_file_fixes_and_that_are_taken_are_warnings():
    config = loads(
        "version: 2\nagents: [{name: a, role: llm, model: test/echo}, {name: b, role: llm, model: test/echo}]\n"
        "deployment: {agents: {a: {replicas: 2, port: 6001}, b: {replicas: 3}}}\n"
    )
    found = await check_ports(config, network(["127.0.0.1:6002"]))
    assert [(each.level, each.what) for each in found] == [
        (Level.WARNING, "port 6002, which the file gives to a, is taken")
    ]


async def test_an_engine_with_compose_is_told_with_versions():
    run = machine(docker_version=(0, json.dumps({"Version": "27.1"})), docker_compose=(0, "2.29.0\n"))
    (found,) = await check_engine(run)
    assert (found.level, found.what) == (Level.OK, "Docker 27.1, Compose 2.29.0")


async def test_a_machine_without_docker_is_fine():
    (found,) = await check_engine(machine())
    assert found.level is Level.OK


async def test_a_docker_command_without_an_engine_is_a_warning():
    (found,) = await check_engine(machine(docker_version=(1, "null")))
    assert found.level is Level.WARNING
    assert "no engine answers" in found.what


@pytest.mark.parametrize("compose", [None, (1, "")])
async def test_an_engine_without_compose_is_a_warning(compose):
    (found,) = await check_engine(machine(docker_version=(0, "?"), docker_compose=compose))
    assert (found.level, found.what) == (Level.WARNING, "Docker of an unknown version is here, without Compose")
