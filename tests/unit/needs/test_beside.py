"""What lies beside a file and is named in it is found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.load import load
from aixgo.errors import ConfigError
from aixgo_services.needs.beside import MAX_TEXT, Beside, read_beside

Write = dict[str, str]


def beside(folder: Path, agents: str, files: Write, more: str = "") -> Beside:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mesh.yaml").write_text(f"version: 2\nagents:\n{agents}{more}")
    return read_beside(load(folder / "mesh.yaml", {}), folder)


def test_modules_of_roles_tools_and_configs_are_found_and_those_that_they_import(tmp_path: Path):
    found = beside(
        tmp_path,
        "  - {name: a, role: 'mine:Agent'}\n"
        "  - {name: b, role: llm, model: test/echo, config: {response: 'shapes:Ticket'}}\n",
        {
            "mine.py": "import json\nfrom helpers import sums\n",
            "helpers.py": "def f():\n    import deeper.inside\n",
            "deeper/__init__.py": "",
            "deeper/inside.py": "import pydantic_ai",
            "shapes.py": "",
            "tools.py": "",
            "rules.py": "",
            "unrelated.py": "",
        },
        "tools: [{name: t, python: 'tools:t'}]\n"
        "orchestration: {pattern: supervisor, agents: [a, b], config: {select: 'rules:choose'}}\n",
    )
    assert list(found.files) == ["helpers.py", "mine.py", "rules.py", "shapes.py", "tools.py"]
    assert found.folders == {"deeper": {"__init__.py": "", "inside.py": "import pydantic_ai"}}
    assert {"json", "pydantic_ai"} <= found.imported
    assert found.missing == ()


def test_modules_that_import_each_other_are_read_once(tmp_path: Path):
    found = beside(tmp_path, "  - {name: a, role: 'x:A'}\n", {"x.py": "import y", "y.py": "import x\nimport y"})
    assert list(found.files) == ["x.py", "y.py"]


def test_code_that_cannot_be_parsed_is_taken_as_it_is(tmp_path: Path):
    assert beside(tmp_path, "  - {name: a, role: 'x:A'}\n", {"x.py": "def ("}).files == {"x.py": "def ("}


def test_scripts_of_models_are_found_wherever_a_model_is_named(tmp_path: Path):
    found = beside(
        tmp_path,
        "  - {name: a, role: llm, model: [test/echo, 'test/script:a.yaml']}\n"
        "  - {name: b, role: 'x:A', config: {judge: {model: 'test/script:scripts/b.yaml'}}}\n",
        {"a.yaml": "1", "scripts/b.yaml": "2"},
    )
    assert found.files == {"a.yaml": "1", "scripts/b.yaml": "2"}


def test_folders_of_documents_are_read_without_what_is_hidden(tmp_path: Path):
    files = {"docs/a.md": "A", "docs/more/b.md": "B", "docs/.git/c": "C"}
    found = beside(tmp_path, "  - {name: a, role: retriever, config: {documents: ./docs}}\n", files)
    assert found.folders == {"docs": {"a.md": "A", "more/b.md": "B"}}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * (MAX_TEXT + 1)])
def test_documents_that_are_no_small_texts_are_there_without_their_texts(tmp_path: Path, content: bytes):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "big").write_bytes(content)
    for named in ("docs", "docs/big"):
        found = beside(tmp_path, f"  - {{name: a, role: retriever, config: {{documents: {named}}}}}\n", {})
        assert (found.folders, found.files) == ({named: None}, {})


def test_what_is_missing_or_elsewhere_is_told_with_who_names_it(tmp_path: Path):
    found = beside(
        tmp_path,
        "  - {name: a, role: retriever, config: {documents: nowhere}}\n"
        "  - {name: b, role: retriever, config: {documents: /srv/docs}}\n"
        "  - {name: c, role: llm, model: 'test/script:../c.yaml'}\n",
        {},
    )
    assert found.missing == (("nowhere", "agent a"),)
    assert found.outside == (("../c.yaml", "agent c"), ("/srv/docs", "agent b"))


def test_the_script_of_an_mcp_server_is_found(tmp_path: Path):
    tools = "tools: [{name: files, mcp: {command: [python, server.py, --verbose, data/x.csv]}}]\n"
    agents = "  - {name: a, role: react, model: test/echo, mcp_servers: [files]}\n"
    assert list(beside(tmp_path, agents, {"server.py": "", "data/x.csv": "1"}, tools).files) == [
        "data/x.csv",
        "server.py",
    ]


def test_a_module_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "x.py").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"x\.py is no text in UTF-8"):
        beside(tmp_path, "  - {name: a, role: 'x:A'}\n", {})
