"""Which secrets a file takes."""

from __future__ import annotations

import pytest
from aixgo.config.load import loads
from aixgo.llm.models import VENDORS, ModelSettings
from aixgo.llm.vendors import key_variables
from aixgo_services.needs.secrets import Secret, needed_secrets


def test_each_vendor_of_a_file_has_a_key_and_langfuse_has_two():
    config = loads(
        "version: 2\n"
        "agents:\n"
        "  - {name: a, role: llm, model: [anthropic/claude-haiku-4-5, ollama/llama3.2, test/echo]}\n"
        "  - {name: b, role: llm, model: [anthropic/claude-opus-4-1, local/smollm2-135m]}\n"
        "  - {name: c, role: retriever, config: {documents: d, embeddings: gemini/gemini-embedding-001}}\n"
        "observability: {langfuse: true}\n"
    )
    assert list(needed_secrets(config)) == [
        Secret("ANTHROPIC_API_KEY", "the file uses anthropic/claude-haiku-4-5", files=True),
        Secret("GEMINI_API_KEY", "the file uses gemini/gemini-embedding-001", files=True),
        Secret("LANGFUSE_PUBLIC_KEY", "observability.langfuse is on"),
        Secret("LANGFUSE_SECRET_KEY", "observability.langfuse is on"),
    ]


def test_a_file_of_models_that_run_here_takes_none():
    config = loads(
        "version: 2\nagents: [{name: a, role: llm, model: [local/smollm2-135m, ollama/llama3.2, test/echo]}]"
    )
    assert list(needed_secrets(config)) == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_keys_are_named_as_the_models_read_them(vendor: str, tmp_path):
    (tmp_path / "key").write_text("k")
    for name in key_variables(vendor):
        value = str(tmp_path / "key") if name.endswith("_FILE") else "k"
        assert vendor in ModelSettings.from_environment({name: value}).keys
