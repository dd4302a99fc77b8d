"""Roles beside their file."""

import pytest
from aixgo.config.build import build_agents
from aixgo.config.load import load


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "unused"))
    return tmp_path / "there"


def test_a_role_is_found_beside_the_file_from_any_working_directory(elsewhere):
    (elsewhere / "beside_role.py").write_text(
        "from aixgo import agent\n@agent\nasync def hello(message):\n    return 'hello'\n"
    )
    (elsewhere / "mesh.yaml").write_text('version: 2\nagents: [{name: hi, role: "beside_role:hello"}]\n')
    assert [agent.name for agent in build_agents(load(elsewhere / "mesh.yaml"))] == ["hi"]
