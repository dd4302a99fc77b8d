"""Which extras a file takes."""

from __future__ import annotations

import pytest
from aixgo.config.load import loads
from aixgo_services.needs.extras import needed_extras
from aixgo_services.needs.keeping import MailboxKind, Sessions


@pytest.mark.parametrize(
    ("agent", "extras"),
    [
        ("role: llm, model: test/echo", set()),
        ("role: llm, model: [test/echo, openai/gpt-4o-mini]", {"openai"}),
        ("role: llm, model: ollama/llama3.2", {"openai"}),
        ("role: llm, model: [xai/grok-4, deepseek/deepseek-chat]", {"openai"}),
        ("role: llm, model: anthropic/claude-haiku-4-5", {"anthropic"}),
        ("role: llm, model: gemini/gemini-2.5-flash", {"gemini"}),
        ("role: react, model: [anthropic/claude-haiku-4-5, gemini/gemini-2.5-flash]", {"anthropic", "gemini"}),
        ("role: llm, model: local/smollm2-135m", {"local"}),
        ("role: retriever, config: {documents: d}", {"rag"}),
        ("role: retriever, config: {documents: d, embeddings: openai/text-embedding-3-small}", {"rag", "openai"}),
        ("role: retriever, config: {documents: d, embeddings: gemini/gemini-embedding-001}", {"rag", "gemini"}),
        ("role: retriever, config: {documents: d, embeddings: test/words}", {"rag"}),
        ("role: classifier, config: {categories: {a: b, c: d}, method: embeddings}", {"rag"}),
        ("role: classifier, model: test/echo, config: {categories: {a: b, c: d}}", set()),
        ("role: aggregator, config: {strategy: clustering, embeddings: test/words}", set()),
        ("role: aggregator, config: {strategy: clustering}", {"rag"}),
        ("role: react, model: test/echo, mcp_servers: [files]", {"mcp"}),
        ("role: producer, config: {cron: 0 9 * * *}", {"cron"}),
        ("role: producer, config: {interval: 1m}", set()),
        ('role: "aixgo.adapters.langgraph:LangGraphAgent"', {"langgraph", "prices"}),
        ('role: "aixgo.adapters.pydantic_ai:PydanticAIAgent"', {"pydantic-ai"}),
    ],
)
def test_an_agent_takes_the_extras_of_its_role_models_and_tools(agent: str, extras: set[str]):
    text = f"version: 2\nagents: [{{name: a, {agent}}}]\ntools: [{{name: files, mcp: {{command: [x]}}}}]\n"
    needed = needed_extras(loads(text), Sessions.MEMORY)
    assert set(needed) == extras
    assert all(by.startswith("agent a ") for by in needed.values())


def test_sessions_in_postgresql_take_its_driver():
    config = loads("version: 2\nagents: [{name: a, role: llm, model: test/echo}]")
    assert set(needed_extras(config, Sessions.POSTGRES)) == {"postgres"}
    assert needed_extras(config, Sessions.SQLITE) == {}


def test_an_embedded_model_of_another_process_takes_a_client_only():
    config = loads("version: 2\nagents: [{name: a, role: llm, model: local/smollm2-135m}]")
    assert set(needed_extras(config, Sessions.MEMORY, served=True)) == {"openai"}


def test_what_modules_beside_the_file_import_counts():
    config = loads("version: 2\nagents: [{name: a, role: 'mine:Agent'}]")
    imported = {"aixgo.adapters.langgraph", "aixgo.adapters.langgraph.LangGraphAgent", "pydantic_ai", "pydantic", "os"}
    assert set(needed_extras(config, Sessions.MEMORY, imported)) == {"langgraph", "prices", "pydantic-ai"}


@pytest.mark.parametrize(
    ("section", "extras"),
    [
        ("{}", set()),
        ("{sample: 0.1, capture_content: true}", set()),
        ("{otlp: 'http://collector:4317'}", {"otel"}),
        ("{console: true}", {"otel"}),
        ("{prometheus: '0.0.0.0:9464'}", {"otel"}),
        ("{langfuse: true}", {"langfuse"}),
        ("{langfuse: true, otlp: 'http://collector:4318'}", {"langfuse", "otel"}),
    ],
)
def test_where_telemetry_goes_takes_extras(section: str, extras: set[str]):
    config = loads(f"version: 2\nagents: [{{name: a, role: llm, model: test/echo}}]\nobservability: {section}")
    needed = needed_extras(config, Sessions.MEMORY)
    assert set(needed) == extras
    assert all(by.startswith("observability.") for by in needed.values())


def test_mailboxes_in_nats_take_its_client():
    config = loads("version: 2\nagents: [{name: a, role: llm, model: test/echo}]")
    assert needed_extras(config, Sessions.MEMORY, mailboxes=MailboxKind.NATS) == {"nats": "mailboxes are in NATS"}
    assert needed_extras(config, Sessions.MEMORY, mailboxes=MailboxKind.SQLITE) == {}
