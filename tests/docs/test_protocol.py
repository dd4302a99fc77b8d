"""What docs/PROTOCOL.md lists is what the code and proto/ have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from aixgo import errors
from aixgo.call import DEFAULT_TIMEOUT, MAX_DEPTH
from aixgo.errors import AixgoError
from aixgo.mailboxes.contract import MAX_DELIVERIES
from aixgo.runtime.base import MAILBOX_SIZE
from aixgo.server.calls import MAX_CONCURRENT_CALLS, REMEMBERED
from aixgo.v1 import agent_pb2, types_pb2
from aixgo_controlplane.registry import DEFAULT_LEASE, MAX_LEASE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "PROTOCOL.md").read_text()
ROW = re.compile(r"^\| `(?P<name>\w+)` \| `(?P<code>[A-Z_]+)` \|", re.MULTILINE)


def test_the_table_of_errors_has_every_class_with_its_code() -> None:
    listed = {row["name"]: row["code"] for row in ROW.finditer(PAGE)}
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, AixgoError)]
    assert listed == {cls.__name__: cls.code.name for cls in classes if cls is not AixgoError}


def test_the_table_of_errors_says_which_were_never_accepted() -> None:
    lines = {row["name"]: line for line in PAGE.splitlines() if (row := ROW.match(line))}
    for name, line in lines.items():
        if not getattr(errors, name).accepted:
            assert line.endswith("; `not_accepted` |")


def test_the_table_of_events_has_every_kind() -> None:
    kinds = types_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert re.findall(r"^\| `([a-z_]+)` \| [^|`]*(?:`|\|)", section("## Streams"), re.MULTILINE) == [
        kind.name for kind in kinds
    ]


def test_every_rpc_of_an_agent_is_explained() -> None:
    service = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
    for method in service.methods:
        assert f"`{method.name}`" in section("## An agent's life")


@pytest.mark.parametrize(
    "said",
    [
        f"`timeout_ms` 0 stands for {DEFAULT_TIMEOUT * 1000:,.0f}",
        f"over {MAX_DEPTH} it ends with `DepthExceeded`",
        f"the last {REMEMBERED:,}",
        f"({MAX_CONCURRENT_CALLS:,} at once by default)",
        f"({DEFAULT_LEASE:.0f} s unless it asks for another, from 1 s to {MAX_LEASE:.0f} s)",
        f"holds {MAILBOX_SIZE} messages by default",
        f"{['no', 'one', 'two', 'three', 'four', 'five'][MAX_DELIVERIES]} times in all",
    ],
)
def test_a_limit_is_what_the_code_has(said: str) -> None:
    assert said in " ".join(PAGE.split())


def section(title: str) -> str:
    """The text from a heading to the next one."""
    return PAGE.partition(f"{title}\n")[2].partition("\n## ")[0]
