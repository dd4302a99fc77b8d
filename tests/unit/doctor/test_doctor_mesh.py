"""What the doctor says of a file, its models and its keys."""

from __future__ import annotations

import pytest
from aixgo.config.load import loads
from aixgo.llm.weights import FILE_BYTES, FILE_NAME
from aixgo_services.doctor import mesh
from aixgo_services.doctor.examination import checked
from aixgo_services.doctor.findings import Level
from aixgo_services.needs.models import vendors_of

FILE = """\
version: 2
agents:
  - {name: a, role: llm, model: [openai/gpt-4o, xai/grok-4]}
  - {name: b, role: llm, model: local/smollm2-135m}
  - {name: c, role: llm, model: test/echo}
"""
SECRET = "sk-very-secret"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mesh.yaml"
    path.write_text(FILE)
    return path


def test_a_good_file_is_one_line_with_its_names(file):
    config, (found,) = mesh.check_file(file, {}, checked)
    assert config is not None
    assert (found.level, found.what) == (Level.OK, f"{file}: a, b, c")


def test_each_thing_that_is_wrong_with_a_file_is_a_line_with_its_place(file):
    file.write_text("version: 2\nagents:\n  - {name: a, role: llm, tools: [none]}\n  - {name: a, role: llm}\n")
    config, found = mesh.check_file(file, {}, checked)
    assert config is None
    assert [each.level for each in found] == [Level.PROBLEM] * 2
    assert found[0].what.startswith(f"{file}:3: agents[0].tools[0]: 'none' is not among the tools")
    assert found[1].what.startswith(f"{file}:4: the name 'a' is taken")
    assert all(f"aixgo config check {file}" in each.fix for each in found)


def test_a_role_that_cannot_be_imported_is_a_line(file):
    file.write_text("version: 2\nagents: [{name: a, role: 'no_such_module:Agent'}]\n")
    config, (found,) = mesh.check_file(file, {}, checked)
    assert config is None
    assert "no_such_module" in found.what


def test_a_file_that_is_not_there_is_a_line(tmp_path):
    _, (found,) = mesh.check_file(tmp_path / "none.yaml", {}, checked)
    assert "there is no such file" in found.what


def test_the_vendors_of_a_file_are_those_of_all_its_models_fallbacks_too():
    assert vendors_of(loads(FILE)) == {
        "openai": "openai/gpt-4o", "xai": "xai/grok-4", "local": "local/smollm2-135m", "test": "test/echo",
    }  # fmt: skip


def test_a_vendor_that_embeds_texts_counts_and_embeddings_made_here_have_no_key_and_no_weights():
    retrievers = "agents: [{{name: a, role: retriever, config: {{documents: d, embeddings: {}}}}}]\nversion: 2\n"
    assert vendors_of(loads(retrievers.format("openai/text-embedding-3-small"))) == {
        "openai": "openai/text-embedding-3-small"
    }
    assert vendors_of(loads(retrievers.format("local/minilm"))) == {}


def test_a_missing_key_is_a_problem_and_a_present_one_is_never_shown():
    found = mesh.check_keys(["openai", "xai", "local", "test"], {"OPENAI_API_KEY": SECRET})
    assert [(each.check, each.level) for each in found] == [
        ("key of openai", Level.OK),
        ("key of xai", Level.PROBLEM),
    ]
    assert found[1].what == "XAI_API_KEY is not set, and the file uses xai/..."
    assert SECRET not in str(found)


def test_an_empty_key_is_no_key():
    (found,) = mesh.check_keys(["openai"], {"OPENAI_API_KEY": ""})
    assert found.level is Level.PROBLEM


def test_a_server_of_the_openai_format_may_want_no_key():
    (found,) = mesh.check_keys(["openai"], {"OPENAI_BASE_URL": "http://localhost:8000"})
    assert found.level is Level.OK
    assert "http://localhost:8000/v1" in found.what


def test_a_password_in_an_address_is_not_shown():
    address = f"http://me:{SECRET}@gpu:8000/v1"
    (found,) = mesh.check_keys(["openai"], {"OPENAI_BASE_URL": address})
    served = mesh.check_model("local/smollm2-135m", {"AIXGO_LOCAL_MODEL_URL": address})
    for told in (found.what, served.what):
        assert "gpu:8000/v1" in told
        assert SECRET not in told


def test_a_key_in_a_file_or_under_another_name_is_told_by_the_variable_that_has_it(tmp_path):
    (tmp_path / "key").write_text(SECRET)
    found = mesh.check_keys(
        ["anthropic", "gemini"], {"ANTHROPIC_API_KEY_FILE": str(tmp_path / "key"), "GOOGLE_API_KEY": SECRET}
    )
    assert [each.what for each in found] == ["ANTHROPIC_API_KEY_FILE is set", "GOOGLE_API_KEY is set"]
    assert SECRET not in str(found)


@pytest.mark.parametrize("vendor", ["anthropic", "gemini"])
def test_the_fix_for_a_missing_key_names_both_ways_to_give_it(vendor):
    (found,) = mesh.check_keys([vendor], {})
    assert found.level is Level.PROBLEM
    assert f"set {vendor.upper()}_API_KEY, " in found.fix
    assert f"{vendor.upper()}_API_KEY_FILE" in found.fix


def test_langfuse_without_its_keys_is_a_warning_and_matters_only_to_a_file_that_sends_there():
    config = loads("version: 2\nagents: [{name: a, role: llm, model: test/echo}]\nobservability: {langfuse: true}")
    (found,) = mesh.check_langfuse(config, {"LANGFUSE_PUBLIC_KEY": "pk"})
    assert (found.level, found.fix) == (Level.WARNING, "set LANGFUSE_SECRET_KEY, or add them to .env")
    (found,) = mesh.check_langfuse(config, {"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": SECRET})
    assert found.level is Level.OK
    assert SECRET not in str(found)
    assert mesh.check_langfuse(loads(FILE), {}) == []


def test_missing_weights_matter_only_to_a_file_that_uses_them(tmp_path):
    variables = {"AIXGO_MODEL_DIR": str(tmp_path)}
    assert mesh.check_model(None, variables).level is Level.OK
    found = mesh.check_model("local/smollm2-135m", variables)
    assert (found.level, found.fix) == (Level.PROBLEM, "aixgo model pull")
    assert str(tmp_path) in found.what


def test_weights_that_are_there_are_fine(tmp_path):
    with (tmp_path / FILE_NAME).open("wb") as weights:
        weights.truncate(FILE_BYTES)
    found = mesh.check_model("local/smollm2-135m", {"AIXGO_MODEL_DIR": str(tmp_path)})
    assert (found.level, found.what) == (Level.OK, str(tmp_path / FILE_NAME))


def test_a_model_that_another_process_serves_needs_no_weights(tmp_path):
    variables = {"AIXGO_MODEL_DIR": str(tmp_path), "AIXGO_LOCAL_MODEL_URL": "http://model:8080/v1"}
    found = mesh.check_model("local/smollm2-135m", variables)
    assert found.level is Level.OK
    assert "http://model:8080/v1" in found.what
