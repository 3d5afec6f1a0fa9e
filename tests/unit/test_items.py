"""Line items: what identifies them and their products, and that their identity does not change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jirafe import events
from jirafe.fields import Body, Unmappable
from jirafe.items import Shared
from jirafe.items import made as made_items
from schemas.decoder import Kept
from schemas.hub import to_message

Hub = dict[str, Any]
T1, T2, T3, T4, T5 = (f"2014-03-0{day}T00:00:00.000Z" for day in range(1, 6))


def made(items: list[Hub], *, previous: list[Hub] | None = None, before: list[Hub] | None = None) -> Body:
    """Make the event of a change: `previous` are items in the hub's form, `before` in the shop's."""
    document = {
        "message": "order:updated",
        "original": {"number": "R1", "currency": "USD", "created_at": T1, "updated_at": T2, "line_items": items},
        "previous": {"line_items": previous} if previous is not None else None,
        "diff": {"line_items": [before, items]} if before is not None else None,
    }
    return events.order_accepted(to_message(document)["payload"], {"jirafe.store_url": "https://shop.example"})


def raw(number: int, **fields: Any) -> Hub:
    """A line item as shops have it."""
    variant = {"id": 50 + number, "product_id": 30 + number, "sku": f"SKU-{number}", "name": f"Thing {number}"}
    return {
        "id": number,
        "quantity": 1,
        "price": "10.0",
        "variant_id": 50 + number,
        "variant": {**variant, **fields.pop("variant", {})},
        **fields,
    }


def normalized(number: int, **fields: Any) -> Hub:
    """The same line item as hubs have it."""
    return {
        "name": f"Thing {number}",
        "sku": f"SKU-{number}",
        "quantity": 1,
        "price": 10,
        "variant_id": 50 + number,
        **fields,
    }


def product(**variant: Any) -> Body:
    (item,) = made([raw(1, created_at=T3, updated_at=T4, variant=variant)])["items"]
    body: Body = item["product"]
    return body


class TestProducts:
    def test_dates_come_from_the_variant_then_the_product_then_the_item(self) -> None:
        dates = {"product_created_at": T5, "product_updated_at": T1}
        of_product = {"product": {"created_at": T2, "updated_at": T2}}
        found = product(**dates, **of_product)
        assert (found["create_date"], found["change_date"]) == (T5, T1)
        found = product(**of_product)
        assert (found["create_date"], found["change_date"]) == (T2, T2)
        found = product()
        assert (found["create_date"], found["change_date"]) == (T3, T4)

    @pytest.mark.parametrize("name", ["created_at", "updated_at"])
    def test_an_invalid_date_is_named_with_its_place(self, name: str) -> None:
        with pytest.raises(Unmappable, match=rf"^items\.0\.product\.{name}: 'soon' is not a date"):
            product(**{f"product_{name}": "soon"})
        with pytest.raises(Unmappable, match=rf"^items\.0\.{name}: 'soon' is not a date"):
            made([raw(1, **{name: "soon"})])

    @pytest.mark.parametrize(
        ("item", "identity", "code"),
        [
            ({"variant": {"product_id": 1, "sku": "V"}, "product_id": 2, "sku": "S", "variant_id": 3}, "1", "V"),
            ({"variant": {"sku": "V"}, "product_id": 2, "sku": "S", "variant_id": 3}, "2", "V"),
            ({"variant": {"sku": "V"}, "sku": "S", "variant_id": 3}, "V", "V"),
            ({"sku": "S", "variant_id": 3}, "S", "S"),
            ({"product_id": "P", "variant_id": 3}, "P", "P"),
        ],
    )
    def test_a_variant_id_is_not_used_as_the_product_id_if_there_is_a_sku(
        self, item: Hub, identity: str, code: str
    ) -> None:
        found = made([{"id": 9, "quantity": 1, "price": 1, **item}])["items"][0]["product"]
        assert (found["id"], found["code"]) == (identity, code)

    @pytest.mark.parametrize(
        "image",
        [
            {"attachment_url": "/a.png", "url": "/b.png"},
            {"url": "/a.png", "large_url": "/b.png"},
            {"mini_url": "/d.png", "small_url": "/c.png", "product_url": "/b.png", "large_url": "/a.png"},
            {"mini_url": "/c.png", "small_url": "/b.png", "product_url": "/a.png"},
            {"mini_url": "/b.png", "small_url": "/a.png", "attachment_url": None},
            {"mini_url": "/a.png"},
            {"url": "https://shop.example/a.png"},
            "/a.png",
        ],
    )
    def test_an_image_has_its_first_available_address(self, image: object) -> None:
        assert product(images=[image])["images"] == [{"url": "https://shop.example/a.png"}]

    @pytest.mark.parametrize("url", ["http://a/b.png", "HTTPS://CDN.example/B.png", "Http://a"])
    def test_an_image_on_another_host_keeps_its_address(self, url: str) -> None:
        assert product(images=[{"url": url}])["images"] == [{"url": url}]

    def test_images_may_come_from_the_product_or_the_item(self) -> None:
        assert product(product={"images": [{"url": "http://a"}]})["images"] == [{"url": "http://a"}]
        item = {"sku": "S", "quantity": 1, "price": 1, "images": [{"url": "http://a"}]}
        assert made([item])["items"][0]["product"]["images"] == [{"url": "http://a"}]

    @pytest.mark.parametrize("place", ["item", "variant", "product"])
    def test_categories_may_be_in_the_meta_data_of_later_hubs(self, place: str) -> None:
        meta = {"meta_data": {"jirafe": {"taxons": [{"id": 9, "permalink": "c/bags", "name": "Bags"}]}}}
        variant = {"variant": meta, "product": {"product": meta}, "item": {}}[place]
        item = raw(1, variant=variant, **(meta if place == "item" else {}))
        assert made([item])["items"][0]["product"]["categories"] == [{"id": "9", "name": "Bags"}]

    def test_a_category_without_an_id_has_its_permalink(self) -> None:
        taxons = [{"permalink": "t-shirts", "name": "T-Shirts"}]
        item = {"sku": "S", "quantity": 1, "price": 1, "meta_data": {"jirafe": {"taxons": taxons}}}
        assert made([item])["items"][0]["product"]["categories"] == [{"id": "t-shirts", "name": "T-Shirts"}]

    def test_categories_of_variant_and_product_have_no_duplicates(self) -> None:
        one, other = {"id": 1, "name": "Bags"}, {"id": 2, "name": "Gifts"}
        meta = {"jirafe": {"taxons": [{"id": 3, "name": "Late"}]}}
        found = product(taxons=[one], product={"taxons": [other, one]}, meta_data=meta)["categories"]
        assert found == [{"id": "1", "name": "Bags"}, {"id": "2", "name": "Gifts"}]

    @pytest.mark.parametrize("odd", [None, [], "x", {"jirafe": None}, {"jirafe": {"taxons": {}}}, {"jirafe": [1]}])
    def test_meta_data_of_another_form_is_ignored(self, odd: object) -> None:
        assert "categories" not in product(meta_data=odd)


def identities(items: list[Body]) -> list[tuple[str, Body]]:
    return [(item["id"], item["product"]) for item in items]


class TestPreviousItems:
    def test_come_from_the_diff_first(self) -> None:
        body = made([raw(1), raw(2)], before=[raw(1, quantity=3)], previous=[normalized(1, quantity=4)])
        assert [item["quantity"] for item in body["previous_items"]] == [3]
        assert identities(body["previous_items"]) == identities(body["items"][:1])

    @pytest.mark.parametrize("before", [None, [], [None], ["x"]])
    def test_come_from_the_previous_object_if_the_diff_has_none(self, before: Any) -> None:
        body = made([raw(1), raw(2)], before=before, previous=[normalized(2, quantity=4)])
        assert [item["quantity"] for item in body["previous_items"]] == [4]
        assert identities(body["previous_items"]) == identities(body["items"][1:])

    @pytest.mark.parametrize("line_items", [5, "x", {"0": 1}, [{"sku": "A"}], [[[]]]])
    def test_a_diff_of_another_form_is_ignored(self, line_items: object) -> None:
        document = {"message": "order:updated", "order": {"number": "R1"}, "diff": {"line_items": line_items}}
        assert to_message(document)["payload"]["previous_items"] == []

    @pytest.mark.parametrize(
        "previous",
        [{"id": 1, "sku": "OTHER"}, {"variant_id": 51, "sku": "OTHER"}, {"sku": "SKU-1"}, {"variant": {"id": 51}}],
    )
    def test_are_matched_by_id_variant_or_sku(self, previous: Hub) -> None:
        body = made([raw(1), raw(2)], previous=[{"quantity": 1, "price": 1, **previous}])
        assert identities(body["previous_items"]) == identities(body["items"][:1])

    def test_removed_items_keep_their_own_ids(self) -> None:
        body = made([raw(1)], before=[raw(1), raw(2)])
        assert [item["id"] for item in body["previous_items"]] == ["1", "2"]
        assert body["previous_items"][1]["product"]["id"] == "32"
        body = made([raw(1)], previous=[normalized(2)])
        assert [(item["id"], item["product"]["id"]) for item in body["previous_items"]] == [("52", "SKU-2")]

    def test_an_id_has_priority_over_a_sku(self) -> None:
        twins = [raw(1), {**raw(1), "id": 2}]
        body = made(twins, before=[{**raw(1), "id": 2}, raw(1)])
        assert [item["id"] for item in body["previous_items"]] == ["2", "1"]

    def test_may_belong_to_a_cart(self) -> None:
        document = {
            "message": "cart:updated",
            "cart": {"number": "R1", "currency": "USD", "created_at": T1, "line_items": [raw(1)]},
            "diff": {"line_items": [[raw(1, quantity=9)], [raw(1)]]},
        }
        body = events.cart(to_message(document)["payload"], {})
        assert [(item["id"], item["quantity"]) for item in body["previous_items"]] == [("1", 9)]


@given(
    st.lists(st.integers(1, 9), unique=True, min_size=1),
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), unique_by=lambda drawn: drawn[0], min_size=1),
    st.booleans(),
)
def test_an_item_that_stays_has_one_id_and_one_product_in_both_lists(
    current: list[int],
    previous: list[tuple[int, bool]],
    is_raw: bool,  # noqa: FBT001 - a case
) -> None:
    if is_raw:
        body = made([raw(number) for number in current], before=[raw(number) for number, _ in previous])
    else:
        items = [normalized(number, **({} if has else {"variant_id": None})) for number, has in previous]
        body = made([raw(number) for number in current], previous=items)
    now = dict(zip(current, identities(body["items"]), strict=True))
    then = dict(zip((number for number, _ in previous), identities(body["previous_items"]), strict=True))
    assert {number: then[number] for number in now.keys() & then.keys()} == {
        number: now[number] for number in now.keys() & then.keys()
    }
    gone = [then[number][0] for number in then.keys() - now.keys()]
    assert not {identity for identity, _ in now.values()} & set(gone) or not is_raw
    assert len({identity for identity, _ in then.values()}) == len(then) or not is_raw


SOME = st.none() | st.sampled_from(["", "1", "2", T1, "n" * 600])
VARIANTS = st.fixed_dictionaries(
    {
        "product_id": SOME,
        "name": SOME,
        "sku": SOME,
        "price": st.none() | st.floats(1, 2),
        "images": st.lists(st.sampled_from(["a.png", "/b.png", "https://i.example/c.png"]), max_size=25),
        "taxons": st.lists(st.fixed_dictionaries({"id": SOME, "name": SOME, "taxonomy_id": SOME}), max_size=25),
        "created_at": st.sampled_from([None, T1, T2, "no date"]),
        "updated_at": st.sampled_from([None, T1, T2]),
    }
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["jirafe.store_url", "jirafe.brand_category_taxonomy", "x"]),
    st.sampled_from(["1", "2", "https://shop.example"]),
)


class TestRepeatedVariants:
    """A kept product never changes the product that a variant makes."""

    @given(
        VARIANTS,
        st.lists(
            st.tuples(
                st.fixed_dictionaries(dict.fromkeys(("product_id", "variant_id", "sku", "name"), SOME)),
                st.builds(Shared, st.sampled_from([T1, T2]), st.sampled_from([T1, T2]), PARAMETERS, st.just("n")),
            ),
            max_size=6,
        ),
    )
    def test_make_the_same_product(self, variant: Hub, uses: list[tuple[Hub, Shared]]) -> None:
        kept = Kept(variant)
        for fields, shared in uses * 2:
            item = {**fields, "id": "1", "quantity": 1, "price": 1.0, "created_at": None, "updated_at": None}
            assert tried({**item, "variant": kept}, shared) == tried({**item, "variant": variant}, shared)

    def test_are_mapped_once(self) -> None:
        kept = Kept(
            {**raw(1)["variant"], "price": 1.0, "images": [], "taxons": [], "created_at": T1, "updated_at": T1}
        )
        fields = {
            "quantity": 1,
            "created_at": None,
            "updated_at": None,
            "name": None,
            "sku": None,
            "product_id": None,
        }
        items = [{**raw(number), **fields, "variant_id": "5", "price": 1.0, "variant": kept} for number in (1, 2)]
        one, other = made_items(items, Shared(T1, T1, {}, "n"))
        assert one["product"] is other["product"]

    def test_large_products_are_not_kept(self) -> None:
        for fields in (
            {"images": ["a.png"] * 21},
            {"taxons": [{"id": "1", "name": "a", "taxonomy_id": "1"}] * 21},
            {},
        ):
            plain = {"price": 1.0, "images": [], "taxons": [], "created_at": T1, "updated_at": T1}
            kept = Kept({**raw(1)["variant"], **plain, **fields})
            store = {} if fields else {"jirafe.store_url": "https://shop.example" * 30}
            item = {
                **raw(1),
                "variant_id": "5",
                "name": None,
                "sku": None,
                "product_id": None,
                "created_at": None,
                "updated_at": None,
            }
            made_items([{**item, "price": 1.0, "variant": kept}], Shared(T1, T1, store, "n"))
            assert kept.note == ()


def tried(item: Hub, shared: Shared) -> list[Body] | str:
    try:
        return made_items([item], shared)
    except Unmappable as error:
        return str(error)
