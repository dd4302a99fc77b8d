"""Keys from variables and files, addresses, limits, and what the endpoints of vendors are."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest
from aixgo import errors
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.limits import VendorLimits
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.vendors import VENDORS, endpoint_of, key_variables


def test_a_key_may_lie_in_a_file(tmp_path: Path):
    (tmp_path / "key").write_text("sk-123\n")
    settings = ModelSettings.from_environment({"ANTHROPIC_API_KEY_FILE": str(tmp_path / "key")})
    assert settings.keys["anthropic"].get_secret_value() == "sk-123"
    assert "sk-123" not in repr(settings)


@pytest.mark.parametrize("text", ["", "\n", "x" * 20_000, "sk 12", "sk-1\nsk-2", "sk-…"])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path: Path, text: str):
    (tmp_path / "key").write_text(text)
    with pytest.raises(errors.ConfigError, match="OPENAI_API_KEY_FILE") as caught:
        ModelSettings.from_environment({"OPENAI_API_KEY_FILE": str(tmp_path / "key")})
    assert "sk" not in str(caught.value).replace(str(tmp_path), "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(errors.ConfigError, match=r"GEMINI_API_KEY_FILE names .*/none, which cannot be read: No such"):
        ModelSettings.from_environment({"GEMINI_API_KEY_FILE": str(tmp_path / "none")})


def test_a_key_and_a_file_of_it_are_one_too_many(tmp_path: Path):
    with pytest.raises(errors.ConfigError, match="both XAI_API_KEY and XAI_API_KEY_FILE"):
        ModelSettings.from_environment({"XAI_API_KEY": "k", "XAI_API_KEY_FILE": str(tmp_path)})


def test_limits_are_by_vendor():
    settings = ModelSettings.from_environment(
        {
            "AIXGO_ANTHROPIC_MAX_CONCURRENCY": "8",
            "AIXGO_ANTHROPIC_REQUESTS_PER_MINUTE": "50",
            "AIXGO_ANTHROPIC_MAX_TRIES": "1",
        }
    )
    assert settings.limits["anthropic"] == VendorLimits(8, 50, 1)
    assert settings.limits["openai"] == VendorLimits(None, None, 3)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "9999999"])
def test_a_limit_that_is_no_count_is_refused(value: str):
    with pytest.raises(errors.ConfigError, match="AIXGO_OPENAI_MAX_CONCURRENCY"):
        ModelSettings.from_environment({"AIXGO_OPENAI_MAX_CONCURRENCY": value})


@pytest.mark.parametrize(
    ("variable", "value", "vendor", "url"),
    [
        ("ANTHROPIC_BASE_URL", "https://proxy/", "anthropic", "https://proxy"),
        ("GEMINI_BASE_URL", "https://proxy/gemini", "gemini", "https://proxy/gemini"),
        ("XAI_BASE_URL", "https://proxy", "xai", "https://proxy/v1"),
    ],
)
def test_addresses_are_as_the_sdk_of_the_vendor_wants_them(variable: str, value: str, vendor: str, url: str):
    assert endpoint_of(vendor, ModelSettings.from_environment({variable: value})).base_url == url


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini", "xai", "deepseek"])
async def test_a_missing_key_is_named_with_both_ways_to_give_it(vendor: str):
    chat = Models(ModelSettings()).chat([f"{vendor}/x"])
    with pytest.raises(errors.ProviderDenied, match=rf"set {vendor.upper()}_API_KEY, or {vendor.upper()}_API_KEY_FILE"):
        await chat.complete(CompletionRequest((ChatMessage("user", "x"),)))


def test_googles_own_name_of_the_key_counts_where_ours_is_not_set(tmp_path: Path):
    (tmp_path / "key").write_text("g-file")
    for given, key in (
        ({"GOOGLE_API_KEY": "g"}, "g"),
        ({"GOOGLE_API_KEY_FILE": str(tmp_path / "key")}, "g-file"),
        ({"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "mine"}, "mine"),
    ):
        assert ModelSettings.from_environment(given).keys["gemini"].get_secret_value() == key


async def test_ollama_is_on_this_machine_and_wants_no_key():
    endpoint = endpoint_of("ollama", ModelSettings.from_environment({}))
    assert (endpoint.base_url, endpoint.key_env, endpoint.is_local) == ("http://127.0.0.1:11434/v1", "", True)
    settings = ModelSettings.from_environment({"OLLAMA_HOST": "gpu:11434"})
    assert endpoint_of("ollama", settings).base_url == "http://gpu:11434/v1"


@pytest.mark.parametrize("vendor", ["anthropic", "deepseek"])
def test_embeddings_that_are_not_there_name_others(vendor: str):
    with pytest.raises(errors.ConfigError, match="local/minilm"):
        Models(ModelSettings()).embedder(f"{vendor}/x")


@pytest.mark.parametrize("page", [".env.example", "docs/MODELS.md"])
def test_the_variables_of_every_vendor_are_written_down(page: str):
    text = (Path(__file__).parents[3] / page).read_text()
    hosted = [vendor for vendor in VENDORS if key_variables(vendor)]
    assert len(hosted) == 5
    for vendor in hosted:
        assert f"{vendor.upper()}_BASE_URL" in text
        assert key_variables(vendor)[0] in text
    for name in (
        "GOOGLE_API_KEY",
        "OLLAMA_HOST",
        "_API_KEY_FILE",
        "_MAX_CONCURRENCY",
        "_REQUESTS_PER_MINUTE",
        "_MAX_TRIES",
    ):
        assert name in text


def test_no_sdk_and_no_list_of_prices_is_loaded_before_the_first_request():
    program = (
        "import sys, aixgo\n"
        "from aixgo.llm.models import Models, ModelSettings\n"
        "models = Models(ModelSettings())\n"
        "models.chat(['openai/a', 'anthropic/b', 'gemini/c', 'xai/d', 'local/smollm2-135m'])\n"
        "for name in ('openai/text-embedding-3-small', 'gemini/gemini-embedding-001'): models.embedder(name)\n"
        "names = ('openai', 'anthropic', 'google.genai', 'httpx', 'httpx2', 'aiolimiter', 'genai_prices')\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    done = run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
