"""What telemetry calls each vendor, in completions and in embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.models import Models
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiProviderNameValues as Names

from tests.unit.llm.vendor_server import VendorServer
from tests.vendors.dialects import Dialect, Said

NAMES = {
    "openai": Names.OPENAI.value,
    "xai": Names.X_AI.value,
    "deepseek": Names.DEEPSEEK.value,
    "anthropic": Names.ANTHROPIC.value,
    "gemini": Names.GCP_GEMINI.value,
    "ollama": "ollama",
}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def test_spans_name_the_vendor_by_the_conventions(
    server: VendorServer, dialect: Dialect, models: Models, chat: Chat, exported: InMemorySpanExporter
):
    server.handlers = [dialect.answers(Said("hi"))]
    await chat.complete(CompletionRequest((ChatMessage("user", "hello"),)))
    if dialect.embeds:
        server.handlers = [dialect.embeds_as((1.0,))]
        await models.embedder(dialect.model).embed(["tea"])
    done = exported.get_finished_spans()
    assert [one.name for one in done] == ["chat model-1", "embeddings model-1"][: 1 + dialect.embeds]
    assert {(one.attributes or {})["gen_ai.provider.name"] for one in done} == {NAMES[dialect.vendor]}
