"""The file of a SQLite session store."""

from __future__ import annotations

from pathlib import Path

from aixgo.conversation import Turn
from aixgo.sessions.sqlite import SQLiteSessions


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_the_file_of_conversations_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = SQLiteSessions(tmp_path / "new.db")
    async with store.hold("s", "a") as session:
        await session.add([Turn("user", "hello"), Turn("assistant", "hi")])
    found = modes(tmp_path)
    await store.close()
    assert found
    assert set(found.values()) == {0o600}
