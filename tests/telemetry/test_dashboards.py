"""The dashboard and the rules name only metrics that exist; `test_prometheus.py` has Prometheus itself read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from aixgo.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, TOTALS

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
RULES, DASHBOARD = FOLDER / "rules.yml", FOLDER / "dashboard.json"
NAMED = re.compile(r"\b(?:aixgo|gen_ai)_[a-z_]+(?=[\[{ )/]|$)")
LABELS = {"gen_ai_agent_name", "gen_ai_request_model", "gen_ai_token_type", "aixgo_outcome", "aixgo_instance_state"}


def on_the_page() -> set[str]:
    """The names that a metrics page shows, as OpenTelemetry writes names for Prometheus."""
    counters = {f"{name}.total" for name in (*COUNTERS, *TOTALS)}
    histograms = {f"{name}{'.seconds' if unit == 's' else ''}.bucket" for name, (unit, _, _) in HISTOGRAMS.items()}
    gauges = {f"{name}{'.seconds' if unit == 's' else ''}" for name, (unit, _) in GAUGES.items()}
    return {name.replace(".", "_") for name in counters | histograms | gauges}


def expressions() -> list[str]:
    """Every expression of both files."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_metric_that_is_named_exists():
    recorded = {
        rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
        if "record" in rule
    }  # fmt: skip
    named: set[str] = set()
    for expression in expressions():
        used = set(re.findall(r"\b\w+:\w+:\w+", expression))
        assert used <= recorded
        bare = re.sub(r"\b\w+:\w+:\w+|\{[^}]*\}|\bby \([^)]*\)", "", expression)
        named |= set(NAMED.findall(bare)) - LABELS
    assert named
    assert named <= on_the_page()


def test_every_metric_that_there_is_can_be_seen():
    text = RULES.read_text() + DASHBOARD.read_text()
    unseen = {name for name in on_the_page() if name not in text}
    assert unseen == {"aixgo_agents"}
