"""The short form of `mailboxes.py`: each process killed twice, on every nats-server that is installed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.mailboxes import Run
from tests.nats_server import find_servers

REQUIRED = os.environ.get("AIXGO_REQUIRE_TOOLS") == "1"
SERVERS = find_servers()
MESSAGES, SEED = 600, 7


@pytest.mark.parametrize("number", range(max(1, len(SERVERS))))
def test_no_message_is_lost_when_sender_receivers_and_broker_are_killed(number: int, tmp_path: Path) -> None:
    if not SERVERS:
        (pytest.fail if REQUIRED else pytest.skip)("no nats-server is there; tests/tools/install-nats installs one")
    victims = ["sender", "broker", "receiver 0", "receiver 1"] * 2
    random.Random(SEED).shuffle(victims)
    outcome = Run(tmp_path, SERVERS[number], MESSAGES, victims, SEED).run()
    assert outcome.held, outcome.table()
    assert sum(outcome.kills.values()) == len(victims)
