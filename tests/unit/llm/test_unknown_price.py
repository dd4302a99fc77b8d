"""A model whose price nobody knows: cost None, one warning, a metric, and sums that are lower bounds."""

from __future__ import annotations

import logging
import urllib.request
from decimal import Decimal

import pytest
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from aixgo.testing import running
from vendor_server import VendorServer, answers

PRICED = {"acme-known": Price(Decimal(1), Decimal(2))}


async def test_it_costs_none_is_warned_of_once_counted_and_makes_a_sum_a_lower_bound(
    vendor: VendorServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    models = Models(ModelSettings(urls={"openai": vendor.url}), prices=PRICED)
    named = {name: AgentSpec(name=name, role="llm", model=(f"openai/acme-{name}",)) for name in ("known", "new")}
    agents = [LLMAgent(spec, models=models) for spec in named.values()]
    vendor.handlers = [answers("hi")] * 3
    async with set_up(TelemetrySettings(prometheus="127.0.0.1:0")) as telemetry, running(*agents) as runtime:
        unknown = [(await runtime.call("new", "x")).usage for _ in range(2)]
        known = (await runtime.call("known", "x")).usage
        with urllib.request.urlopen(f"http://{telemetry.metrics_address}/metrics", timeout=5) as page:  # noqa: ASYNC210
            told = page.read().decode()
    await models.close()
    assert [(one.cost_usd, one.unpriced_calls, one.at_least) for one in unknown] == [(None, 1, True)] * 2
    assert (known.cost_usd, known.at_least) == (Decimal("0.02"), False)
    total = unknown[0] + unknown[1] + known
    assert (total.cost_usd, total.unpriced_calls, total.at_least) == (Decimal("0.02"), 2, True)
    warned = [one.getMessage() for one in caplog.records if "price" in one.getMessage()]
    assert warned == ["the price of openai/acme-new is not known, so its cost is left out; add it under `pricing:`"]
    labels = 'gen_ai_provider_name="openai",gen_ai_request_model="acme-{}"'
    assert f"aixgo_llm_unpriced_calls_total{{{labels.format('new')}}} 2.0" in told
    assert f"aixgo_llm_unpriced_calls_total{{{labels.format('known')}}}" not in told
    assert f"aixgo_llm_cost_usd_total{{{labels.format('known')}}} 0.02" in told
