"""The dashboard for Grafana is one, and asks for metrics that export() makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from memphis_sync.contrib import prometheus

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana" / "memphis.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_each_query_names_a_metric_that_is_exported_with_labels_that_it_has(observed, station):
    registry = CollectorRegistry()
    client = observed()
    prometheus.export(client, interval_s=3600, registry=registry)
    client.producer(station, "p").produce(b"1")
    client.consumer(station, "c").fetch(1, timeout_s=30)[0].ack()
    client.close()
    labels = {
        sample.name: {*sample.labels, "job", "instance"} for family in registry.collect() for sample in family.samples
    }
    asked = set()
    for query in [*QUERIES, *(each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each)]:
        (name,) = re.findall(r"\bmemphis_\w+", query)
        assert name in labels, query
        used = {found for group in re.findall(r"by \(([\w, ]+)\)", query) for found in group.split(", ")}
        used |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", query))
        assert used <= labels[name], query
        asked.add(re.sub(r"_(bucket|total)$", "", name))
    made = {family.name for family in registry.collect()}
    assert asked == made


def test_it_is_a_dashboard_that_fits_together():
    panels = DASHBOARD["panels"]
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    assert DASHBOARD["uid"].replace("-", "").isalnum()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        assert {"type", "title", "description", "datasource", "fieldConfig", "options"} <= panel.keys()
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__range", "__all"} == variables
    assert all(query.count("(") == query.count(")") and query.count("{") == query.count("}") for query in QUERIES)
