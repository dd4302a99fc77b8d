"""Every variable of aixgo's own stands in the reference of settings, and nothing stands there that nobody reads."""

from __future__ import annotations

import re
from pathlib import Path

from aixgo.config.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "DEPLOYMENT.md", ROOT / "SECURITY.md")
EXAMPLE = ROOT / ".env.example"
COMPOSE = [*ROOT.glob("docker-compose*.yml"), *(ROOT / "examples" / "compose").glob("*.yaml")]
CODE = [path for folder in ("sdk", "controlplane", "services") for path in (ROOT / folder).rglob("*.py")]
NAME = re.compile(rf"\b{PREFIX}[A-Z]+(?:_[A-Z]+)*\b")
OF_ONE_PROCESS = {"AIXGO_DEPLOYMENT_MODE", "AIXGO_ADVERTISE_ADDRESS"}
"""Of no use to all processes of a fleet at once, which is what .env is for."""
OF_VENDORS = re.compile(rf"{PREFIX}[A-Z]+_(MAX_CONCURRENCY|REQUESTS_PER_MINUTE|MAX_TRIES)")
"""What one process asks of a vendor: a variable for each of them, all read in the same way."""


def read_by_settings() -> set[str]:
    return {PREFIX + name.upper() for name in Settings.model_fields}


def named_in(*paths: Path) -> set[str]:
    return {name for path in paths for name in NAME.findall(path.read_text())}


def in_tables(*paths: Path) -> set[str]:
    """The variables in the first column of a table."""
    rows = [line.split("|")[1] for path in paths for line in path.read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in NAME.findall(row)}


def test_every_setting_stands_in_the_reference() -> None:
    assert read_by_settings() - in_tables(*REFERENCE) == set()


def test_no_setting_stands_twice_in_one_table() -> None:
    for path in REFERENCE:
        for table in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
            names = [name for row in table.splitlines() for name in NAME.findall(row.split("|")[1])]
            assert sorted(names) == sorted(set(names))


def test_every_variable_in_the_reference_is_read() -> None:
    known = read_by_settings() | named_in(*COMPOSE)
    assert {name for name in in_tables(*REFERENCE) - known if not OF_VENDORS.fullmatch(name)} == set()


def test_every_variable_that_the_code_names_is_a_setting_or_one_of_compose() -> None:
    assert named_in(*CODE) - read_by_settings() - named_in(*COMPOSE) == set()


def test_what_a_fleet_of_compose_can_be_told_stands_in_the_example_of_its_file() -> None:
    assert read_by_settings() - OF_ONE_PROCESS - named_in(EXAMPLE, *COMPOSE) == set()
    asked = {name for path in COMPOSE for name in re.findall(rf"\$\{{({PREFIX}[A-Z_]+)", path.read_text())}
    assert asked - named_in(EXAMPLE) == set()


def test_every_variable_in_the_example_is_read() -> None:
    known = read_by_settings() | named_in(*COMPOSE)
    assert {name for name in named_in(EXAMPLE) - known if not OF_VENDORS.fullmatch(name)} == set()
