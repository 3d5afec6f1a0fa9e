"""How parts are made from settings."""

from consumer import app, settings


def test_subjects_in_a_registry_are_named_as_serializers_name_them() -> None:
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
