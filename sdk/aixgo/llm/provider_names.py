"""What telemetry calls the vendors: `gen_ai.provider.name` by the semantic conventions of OpenTelemetry for GenAI.

Pure, no I/O. Above: metering, of completions and of embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

_BY_CONVENTION: Mapping[str, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "xai": "x_ai",
    "deepseek": "deepseek",
}
"""Source: GenAiProviderNameValues of opentelemetry-semantic-conventions 0.66b2."""


def provider_name(vendor: str) -> str:
    """The name by convention; a vendor that it does not know (`ollama`, `local`, `test`) keeps its own."""
    return _BY_CONVENTION.get(vendor, vendor)
