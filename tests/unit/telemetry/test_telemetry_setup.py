"""Setting telemetry up and ending it: what costs a warning, what an error, and what nothing."""

from __future__ import annotations

import logging
import socket
import urllib.request

import pytest
from aixgo import LocalRuntime, agent
from aixgo.errors import AgentFailed, ConfigError
from aixgo.telemetry import content, export, spans
from aixgo.telemetry.content import REFUSED, ContentPolicy, messages
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

ANYWHERE = "127.0.0.1:0"


@agent
async def speaks(message):
    if message.text == "fail":
        raise ValueError("no")
    return "said"


async def page_after(*inputs: str) -> str:
    """The metrics page after calls with these inputs."""
    async with set_up(TelemetrySettings(prometheus=ANYWHERE)) as telemetry, LocalRuntime() as runtime:
        runtime.register(speaks)
        for text in inputs:
            try:
                await runtime.call("speaks", text)
            except AgentFailed:
                continue
        with urllib.request.urlopen(f"http://{telemetry.metrics_address}/metrics", timeout=5) as page:  # noqa: ASYNC210
            return page.read().decode()


async def test_the_page_counts_calls_by_agent_and_outcome():
    page = await page_after("a", "b", "fail")
    assert 'aixgo_calls_total{aixgo_outcome="ok",gen_ai_agent_name="speaks"} 2.0' in page
    assert 'aixgo_calls_total{aixgo_outcome="AgentFailed",gen_ai_agent_name="speaks"} 1.0' in page
    assert 'aixgo_call_duration_seconds_count{gen_ai_agent_name="speaks"} 3.0' in page
    assert 'aixgo_mailbox_depth{gen_ai_agent_name="speaks"} 0.0' in page
    assert "aixgo_calls_active 0.0" in page


async def test_a_process_can_be_set_up_again():
    for count in (1, 2):
        page = await page_after(*["a"] * count)
        assert f'aixgo_calls_total{{aixgo_outcome="ok",gen_ai_agent_name="speaks"}} {count}.0' in page
    assert not spans.enabled()


def test_an_unreachable_collector_costs_one_warning(caplog: pytest.LogCaptureFixture):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        telemetry = set_up(TelemetrySettings(otlp=url, no_metrics=True))
        for _ in range(3):
            with spans.span("lost"):
                pass
        telemetry.close(timeout=1.0)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) <= 1
    assert all("telemetry is not delivered" in record.getMessage() for record in warnings)


def test_a_taken_port_costs_a_warning_and_the_page(caplog: pytest.LogCaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with set_up(TelemetrySettings(prometheus=address)) as telemetry:
            assert telemetry.metrics_address == ""
    assert f"there is no metrics page at {address}" in caplog.text


def test_a_provider_that_is_there_is_used_and_stays(monkeypatch: pytest.MonkeyPatch):
    own = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", own)
    with set_up(TelemetrySettings(console=True)) as telemetry:
        assert telemetry.tracer_provider is own
    assert trace.get_tracer_provider() is own
    own.shutdown()


@pytest.mark.parametrize("required", [True, False])
def test_a_missing_package_is_an_error_only_where_somebody_asked_for_it(
    required: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def missing(module: str):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(export.importlib, "import_module", missing)
    settings = TelemetrySettings(otlp="http://127.0.0.1:4317", required=required)
    if required:
        with pytest.raises(ConfigError, match=r"pip install 'aixgo\[otel\]'"):
            set_up(settings)
    else:
        set_up(settings).close()
        assert "pip install 'aixgo[otel]'" in caplog.text


def test_content_is_redacted_whole_and_then_cut():
    policy = ContentPolicy(capture=True, redact=lambda text: text.replace("secret", "-"), limit=4)
    assert messages(policy, [("user", "a secret b")]) == (
        '[{"role":"user","parts":[{"type":"text","content":"a - [1 characters cut]"}]}]'
    )


def test_a_text_that_cannot_be_redacted_is_left_out(caplog: pytest.LogCaptureFixture):
    def broken(text: str) -> str:
        raise ValueError(text)

    assert ContentPolicy(capture=True, redact=broken).kept("hush") == REFUSED
    assert "hush" not in caplog.text


def test_content_is_captured_only_while_it_is_asked_for():
    assert content.captured() is None
    with set_up(TelemetrySettings(capture_content=True)):
        assert content.captured() is not None
    assert content.captured() is None
