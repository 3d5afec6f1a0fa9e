"""How parts are made from settings."""

import sys
from typing import Any

import pytest
import structlog

from consumer import app, settings


def test_registry_subjects_have_the_names_that_kafka_serializers_use() -> None:
    given = {"CONSUMER_SCHEMA_REGISTRY_URL": "http://localhost:1"}
    more = {"CONSUMER_CARTS_TOPIC": "all,other", "CONSUMER_ORDERS_TOPIC": "all", "CONSUMER_TAXONS_TOPIC": "^t.*$"}
    registry = app.make_registry(settings.load(None, {**given, **more}))
    assert registry is not None
    assert registry.subjects == {
        "cart": "all-jirafe.hub.CartMessage",
        "order": "all-jirafe.hub.OrderMessage",
        "taxon": "jirafe.hub.TaxonMessage",
        "product": "products-value",
        "result": "jirafe.results-value",
    }


def test_without_opentelemetry_no_spans_are_made_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, event: Any) -> str:
        lines.append(dict(event))
        raise structlog.DropEvent

    assert app.make_tracing(structlog.wrap_logger(None, processors=[keep])) is None
    (line,) = lines
    assert line["event"] == "no_tracing"
    assert "install jirafe-consumer[otel]" in line["reason"]
