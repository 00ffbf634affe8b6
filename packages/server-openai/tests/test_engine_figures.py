"""Every figure of the engine is at `/metrics`, and the dashboard asks for what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sensorium.stats import CacheStats, EngineStats, HistogramRecorder, MediaStats
from sensorium_server_openai.metrics import Metrics

DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "grafana-dashboard.json"
NAME = re.compile(r"sensorium:\w+")


def _histogram() -> Any:
    recorder = HistogramRecorder()
    recorder.add(0.5)
    return recorder.snapshot()


FULL = {
    **{f.name: 1 for f in fields(EngineStats)},
    "is_healthy": False,
    "num_ended": {"stop": 1},
    "step_s": _histogram(),
    "encode_s": {"scent": _histogram()},
    "processor_cache": CacheStats(1, 1, 1, 1, 1),
    "media": {"scent": MediaStats(1, _histogram(), _histogram(), _histogram())},
}


def _text(**figures: Any) -> str:
    return Metrics("m").text(replace(EngineStats(), **figures)).decode()


def _samples(text: str) -> dict[str, float]:
    """Without the times at which counters were made."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("name", [field.name for field in fields(EngineStats)])
def test_a_figure_is_shown(name: str) -> None:
    assert _samples(_text(**{name: FULL[name]})) != _samples(_text())


@pytest.mark.parametrize("name", [field.name for field in fields(CacheStats)])
def test_a_figure_of_the_cache_is_shown(name: str) -> None:
    cache = replace(CacheStats(), **{name: 1})
    assert _samples(_text(processor_cache=cache)) != _samples(_text())


@pytest.mark.parametrize("name", [field.name for field in fields(MediaStats)])
def test_a_figure_of_media_is_shown_by_kind(name: str) -> None:
    without = _samples(_text(media={"scent": MediaStats()}))
    found = replace(MediaStats(), **{name: 1 if name == "num_bytes" else _histogram()})
    shown = _samples(_text(media={"scent": found}))
    assert any("scent" in key for key in shown if shown[key] != without[key])


def _served() -> dict[str, set[str]]:
    """Name of each sample → its labels, once everything has happened."""
    metrics = Metrics("m")
    metrics.http_requests("GET", "/", "200").inc()
    metrics.rejections("concurrency").inc()
    metrics.success("stop").inc()
    text = metrics.text(replace(EngineStats(), **FULL)).decode()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _targets() -> Iterator[dict[str, str]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from panel.get("targets", ())
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield {"expr": variable["query"]["query"], "legendFormat": ""}


def _unknown(target: dict[str, str], served: dict[str, set[str]]) -> set[str]:
    """Names and labels of a query that nothing serves."""
    names = set(NAME.findall(target["expr"]))
    asked = set(re.findall(r"(\w+)=~", target["expr"]))
    asked |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
        asked |= {label.strip() for label in group.split(",")}
    labels = set.intersection(*(served.get(name, set()) for name in names)) if names else set()
    return (names - served.keys()) | (asked - labels)


def test_every_figure_has_the_models_name() -> None:
    """Dashboards choose by it."""
    assert {name for name, labels in _served().items() if "model_name" not in labels} == set()


def test_the_dashboard_asks_for_names_and_labels_that_there_are() -> None:
    served, targets = _served(), list(_targets())
    assert len(targets) > 20
    for target in targets:
        assert NAME.search(target["expr"]), target
        assert not _unknown(target, served), target


@pytest.mark.parametrize(
    "target",
    [
        {"expr": "rate(sensorium:http_requests[1m])", "legendFormat": ""},
        {"expr": 'sensorium:engine_healthy{host=~"a"}', "legendFormat": ""},
        {"expr": "sum by (kind) (sensorium:engine_healthy)", "legendFormat": ""},
        {"expr": "sensorium:engine_healthy", "legendFormat": "{{kind}}"},
    ],
)
def test_a_query_for_what_there_is_not_is_found(target: dict[str, str]) -> None:
    assert _unknown(target, _served())


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
