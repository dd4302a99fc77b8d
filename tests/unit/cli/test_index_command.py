"""`aixgo index` as a person or a script uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aixgo.agents.retriever import RetrieverAgent
from aixgo.config.spec import AgentSpec
from aixgo.testing import running, scripted_models
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.index import index
from aixgo_services.cli.main import _COMMANDS, execute

MESH = """\
version: 2
agents:
  - name: finder
    role: retriever
    config: {documents: docs, store: kept, embeddings: test/words}
  - {name: fleeting, role: retriever, config: {documents: docs, embeddings: test/words}}
  - {name: echo, role: llm, model: test/echo}
"""

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_COMMANDS, index.name or "index", ("index:index", "Index documents for a retriever."))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text("Twenty five days of vacation.")
    (tmp_path / "docs" / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "mesh.yaml").write_text(MESH)
    return tmp_path


async def found(query: str) -> list[dict[str, Any]]:
    config = {"store": "kept", "embeddings": "test/words"}
    agent = RetrieverAgent(AgentSpec(name="finder", role="retriever", config=config), models=scripted_models())
    async with running(agent) as runtime:
        reply = await runtime.call("finder", query)
    assert isinstance(reply.payload, dict)
    return reply.payload["chunks"]


def test_a_folder_is_indexed_and_what_happened_is_told(capsys: Output):
    given = ["index", "docs", "--store", "kept", "--embeddings", "test/words"]
    assert execute(given) == Exit.OK
    out, err = capsys.readouterr()
    assert out == "1 added, 0 changed, 0 as before, 0 removed; 1 chunks embedded\n"
    assert "skipped docs/logo.png: files of kind .png are not read" in err
    assert "1 LLM calls, 5 tokens, $0" in err
    assert execute(given) == Exit.OK
    assert "0 added, 0 changed, 1 as before" in capsys.readouterr().out


async def test_what_was_indexed_is_found(capsys: Output):
    import asyncio

    given = ["index", "mesh.yaml", "--agent", "finder", "--json"]
    assert await asyncio.to_thread(execute, given) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["store"], told["collection"], told["embeddings"]) == ("kept", "documents", "test/words")
    assert (told["added"], told["chunks"]) == (["docs/leave.md"], 1)
    assert told["skipped"][0]["path"] == "docs/logo.png"
    assert told["usage"]["total_tokens"] == 5
    assert [chunk["source"] for chunk in await found("vacation")] == ["docs/leave.md"]


def test_fresh_embeds_everything_again(capsys: Output):
    given = ["index", "docs", "--store", "kept", "--embeddings", "test/words", "--json"]
    execute(given)
    execute([*given, "--fresh"])
    assert [json.loads(line)["chunks"] for line in capsys.readouterr().out.splitlines()] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["docs"], "--store"),
        (["docs", "--store", "kept", "--agent", "finder"], "docs is none"),
        (["docs", "--store", "memory"], "what is in memory ends"),
        (["nowhere", "--store", "kept", "--embeddings", "test/words"], "no folder or file 'nowhere'"),
        (["docs", "--store", "kept", "--embeddings", "test/wrods"], "did you mean 'words'"),
        (["mesh.yaml"], "name a retriever by --agent"),
        (["mesh.yaml", "--agent", "findr"], "did you mean 'finder'"),
        (["mesh.yaml", "--agent", "echo"], "'echo' is no retriever"),
        (["mesh.yaml", "--agent", "fleeting"], "what is in memory ends"),
        (["mesh.yaml", "--agent", "finder", "--store", "x", "--chunk-size", "3"], "--store, --chunk-size: with a YAML"),
    ],
)
def test_wrong_usage_is_told_with_its_exit_code(capsys: Output, arguments: list[str], said: str):
    assert execute(["index", *arguments]) == Exit.USAGE
    assert said in capsys.readouterr().err
