"""The histogram of calls' durations, which is counted by ourselves, is what OpenTelemetry's would be."""

from __future__ import annotations

import urllib.request

import pytest
from aixgo import LocalRuntime, agent
from aixgo.telemetry.durations import AGENT, NAME, SECONDS, Durations, telling
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, Metric

SCOPE = "measured"
taken = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1_000) | st.sampled_from(SECONDS)), min_size=1)


def read(reader: InMemoryMetricReader) -> dict[str, Metric]:
    """The metrics of one collection, by the name of their meter and their own."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        f"{scope.scope.name} {metric.name}": metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def said(metric: Metric) -> dict[str, tuple]:
    """What a histogram says, by agent. Sums of floats depend on their order, in the last digit."""
    return {
        point.attributes[AGENT]: (
            tuple(point.bucket_counts), tuple(point.explicit_bounds), point.count, point.min, point.max,
            pytest.approx(point.sum),
        )
        for point in metric.data.data_points
    }  # fmt: skip


@given(taken)
def test_it_says_what_opentelemetrys_histogram_says_of_the_same_calls(calls: list[tuple[str, float]]):
    durations = Durations(SCOPE)
    reader = telling(InMemoryMetricReader, durations)()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter(SCOPE)
    theirs = meter.create_histogram("theirs", "s", explicit_bucket_boundaries_advisory=list(SECONDS))
    for name, seconds in calls:
        durations.add(name, seconds)
        theirs.record(seconds, {AGENT: name})
    found = read(reader)
    ours = found[f"{SCOPE} {NAME}"]
    assert said(ours) == said(found[f"{SCOPE} theirs"])
    assert (ours.unit, ours.data.aggregation_temporality) == ("s", AggregationTemporality.CUMULATIVE)


def test_it_stands_among_the_metrics_of_its_meter_only_and_before_the_first_call_nowhere():
    durations = Durations(SCOPE)
    reader = telling(InMemoryMetricReader, durations)()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    for scope in (SCOPE, "another"):
        provider.get_meter(scope).create_counter("counted").add(1)
    assert set(read(reader)) == {f"{SCOPE} counted", "another counted"}
    durations.add("a", 0.2)
    assert set(read(reader)) == {f"{SCOPE} counted", "another counted", f"{SCOPE} {NAME}"}


@pytest.mark.parametrize("exemplars", ["", "always_on"])
async def test_the_page_has_the_durations_also_where_opentelemetry_counts_them(
    exemplars: str, monkeypatch: pytest.MonkeyPatch
):
    if exemplars:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", exemplars)

    @agent
    async def said_so(message):
        return message

    async with set_up(TelemetrySettings(prometheus="127.0.0.1:0")) as telemetry, LocalRuntime() as runtime:
        runtime.register(said_so)
        await runtime.call("said_so", "x")
        with urllib.request.urlopen(f"http://{telemetry.metrics_address}/metrics", timeout=5) as page:  # noqa: ASYNC210
            text = page.read().decode()
    assert 'aixgo_call_duration_seconds_count{gen_ai_agent_name="said_so"} 1.0' in text
    assert 'aixgo_call_duration_seconds_bucket{gen_ai_agent_name="said_so",le="+Inf"} 1.0' in text
