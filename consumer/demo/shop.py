"""A simulated shop: the messages that a Spree hub would send, as Avro records ready to produce.

Everything depends only on the seed, even the dates: the shop has its own clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count as counted
from random import Random
from typing import Any, Literal, NamedTuple, cast

import orjson

from schemas.codec import Codec
from schemas.hub import key_of, kind_of, to_message

Hub = dict[str, Any]
TopicKind = Literal["cart", "order", "product", "taxon"]
Parameters = tuple[tuple[str, str], ...]

FAULTS = (
    "truncated JSON",
    "truncated Avro",
    "unknown schema",
    "unknown message type",
    "missing taxonomy parameter",
    "unreadable date",
    "missing currency",
    "negative total",
)
"""What is wrong with broken messages. The API refuses the last one. We can't send the others."""

_EVERY_FAULT_FROM = 100
_OPENING = datetime(2014, 2, 3, 9, tzinfo=UTC)
_CUSTOMERS_AT_A_TIME = 12
_MOST_LINES = 5
_NUMBERS = 10**9
_STORE: Parameters = (("jirafe.store_url", "https://shop.example.com"),)
_PARAMETERS: Parameters = (
    ("jirafe.product_category_taxonomy", "2"),
    ("jirafe.brand_category_taxonomy", "1"),
    *_STORE,
)

# Taxonomy, its root, and the taxons under that.
_TAXONOMIES = (
    (2, "Categories", ("Bags", "Mugs", "Clothing", "Shirts", "T-Shirts")),
    (1, "Brand", ("Ruby on Rails", "Ruby", "Apache", "Spree")),
    (3, "Collections", ("Summer", "Gifts")),
)
# Brand, and the prefix of its SKUs.
_BRANDS = (("Ruby on Rails", "ROR"), ("Ruby", "RUB"), ("Apache", "APC"), ("Spree", "SPR"))
# Name, cents, taxons.
_ARTICLES = (
    ("Tote", 1599, ("Bags", "Summer")),
    ("Bag", 2299, ("Bags",)),
    ("Mug", 1399, ("Mugs", "Gifts")),
    ("Stein", 1699, ("Mugs", "Gifts")),
    ("Baseball Jersey", 1999, ("Clothing", "Shirts")),
    ("Jr. Spaghetti", 1999, ("Shirts",)),
    ("Ringer T-Shirt", 1799, ("T-Shirts", "Summer")),
    ("Hooded Sweatshirt", 3999, ("Clothing",)),
)
_SIZED = ("Clothing", "Shirts", "T-Shirts")
_FIRST_NAMES = ("Brian", "Chris", "Joe", "Sean", "Ana", "Mei", "Fatima", "Olga", "Ravi", "Lucía", "Emma")
_LAST_NAMES = ("Quinn", "Mar", "Smith", "Schofield", "García", "Chen", "Haddad", "Petrova", "Iyer")
# Street, town, zip code, state.
_HOMES = (
    ("7735 Old Georgetown Rd", "Bethesda", "20814", "Maryland"),
    ("112 Hula Lane", "Leesburg", "20175", "Virginia"),
    ("1234 Awesome Street", "Hollywood", "90210", "California"),
    ("401 Congress Ave", "Austin", "78701", "Texas"),
    ("5 Beacon St", "Boston", "02108", "Massachusetts"),
)


class Produced(NamedTuple):
    """A record to produce: the kind of topic it belongs to, key and value. `broken` names its fault, if any."""

    topic_kind: TopicKind
    key: bytes
    value: bytes
    broken: str | None


def shop(count: int, seed: int = 1, broken_share: float = 0.01, codec: Codec | None = None) -> Iterator[Produced]:
    """Yield the first `count` messages of a shop. The same arguments give the same messages, byte for byte.

    `codec` frames them; by default, without a registry. The given share of them is broken, evenly spread, with each
    fault in turn. In 100 messages or more each fault comes at least once, unless the share is 0. A broken message
    has a number of its own, and does not change the others.
    """
    codec = codec or Codec()
    teller, breaker = _Shop(codec, seed, 0), _Shop(codec, seed, 1)
    story = teller.story()
    broken = round(count * broken_share)
    if broken_share > 0 and count >= _EVERY_FAULT_FROM:
        broken = max(broken, len(FAULTS))
    told = 0
    for turn in range(broken):
        at = breaker.random.randrange(turn * count // broken, (turn + 1) * count // broken)
        for _ in range(told, at):
            yield teller.produced(next(story))
        breaker.now = teller.now
        yield breaker.broken(FAULTS[turn % len(FAULTS)])
        told = at + 1
    for _ in range(told, count):
        yield teller.produced(next(story))


@dataclass(slots=True)
class _Line:
    """A line of a cart; the price is in cents."""

    id: int
    variant: Hub
    price: int
    quantity: int


class _Totals(NamedTuple):
    """All in cents; the promotion is negative or 0."""

    item: int
    promotion: int
    tax: int
    shipping: int


@dataclass(slots=True)
class _Order:
    """A cart, and the order that it may become: Spree treats them as one. `late` ones have newer hubs' form."""

    late: bool
    row: int
    number: str
    customer: int
    visit: Hub
    lines: list[_Line]
    promotion: int  # percent
    created: str
    updated: str
    completed: str | None = None
    canceled: str | None = None
    currency: str | None = "USD"
    status: str = "cart"

    def totals(self) -> _Totals:
        item = sum(line.price * line.quantity for line in self.lines)
        return _Totals(item, -(item * self.promotion // 100), item * 5 // 100, 500 if self.completed else 0)

    def adjustments(self, totals: _Totals) -> list[tuple[str, int]]:
        """Return the order's own adjustments. Late shops have promotions on the items instead."""
        promotion = (self.promoted, 0 if self.late else totals.promotion)
        named = (("Shipping", totals.shipping), ("North America 5.0%", totals.tax), promotion)
        return [(name, cents) for name, cents in named if cents]

    @property
    def promoted(self) -> str:
        return f"Promotion (Save {self.promotion}%)"

    def promotions(self, totals: _Totals) -> Iterator[list[Hub]]:
        """Return the promotions of each line. They add up to that of the order."""
        left = totals.promotion if self.late else 0
        for line in self.lines:
            cents = (
                left if line is self.lines[-1] else max(left, -(line.price * line.quantity * self.promotion // 100))
            )
            left -= cents
            source = "Spree::PromotionAction"
            yield [{"label": self.promoted, "amount": _money(cents), "source_type": source}] if cents else []

    def person(self) -> tuple[int | None, str | None]:
        """Return user and email. Every fifth customer is a guest, who gives the email at the checkout."""
        guest = self.customer % 5 == 0
        email = f"customer{self.customer}@example.com"
        return None if guest else self.customer, None if guest and not self.completed else email

    def address(self, *, raw: bool) -> Hub:
        if self.person()[1] is None:
            return {}
        first = _FIRST_NAMES[self.customer % len(_FIRST_NAMES)]
        last = _LAST_NAMES[self.customer % len(_LAST_NAMES)]
        street, city, zipcode, state = _HOMES[self.customer % len(_HOMES)]
        return {
            **({"name": f"{first} {last}"} if self.late else {"firstname": first, "lastname": last}),
            "address1": street,
            "city": city,
            "zipcode": zipcode,
            "state": {"name": state} if raw else state,
            "country": {"iso": "US", "name": "United States"} if raw else "US",
        }

    def raw(self) -> Hub:
        """Return the shop's own form, which is `original`, and the cart of late hubs."""
        totals, address, (user, email) = self.totals(), self.address(raw=True), self.person()
        total = _money(sum(totals))
        return {
            "id": self.row,
            "number": self.number,
            "state": self.status,
            "user_id": user,
            "email": email,
            "currency": self.currency,
            "created_at": self.created,
            "updated_at": self.updated,
            "completed_at": self.completed,
            "canceled_at": self.canceled,
            "item_total": _money(totals.item),
            "tax_total": _money(totals.tax),
            "ship_total": _money(totals.shipping),
            "total": total,
            **self.visit,
            "line_items": [
                {
                    "id": line.id,
                    "quantity": line.quantity,
                    "price": _money(line.price),
                    "variant_id": line.variant["id"],
                    "variant": line.variant,
                    **({"adjustments": promotions} if self.late else {}),
                }
                for line, promotions in zip(self.lines, self.promotions(totals), strict=True)
            ],
            "adjustments": [{"label": n, "amount": _money(cents)} for n, cents in self.adjustments(totals)],
            "bill_address": address,
            "ship_address": address,
            "payments": [{"amount": total, "state": "completed"}] if self.completed else [],
        }

    def normalized(self) -> Hub:
        """Return the hub's form, which is `order`, `previous`, and the cart of early hubs."""
        totals, address, (_, email) = self.totals(), self.address(raw=False), self.person()
        total = sum(totals) / 100
        return {
            "id" if self.late else "number": self.number,
            "status": self.status,
            "email": email,
            "currency": self.currency,
            "placed_on": self.completed,
            "updated_at": self.updated,
            "totals": {
                "item": totals.item / 100,
                "tax": totals.tax / 100,
                "shipping": totals.shipping / 100,
                "order": total,
                **({"discount": -totals.promotion / 100} if self.late else {}),
            },
            "line_items": [
                {
                    "name": line.variant["name"],
                    "sku": line.variant["sku"],
                    "quantity": line.quantity,
                    "price": line.price / 100,
                    "variant_id": line.variant["id"],
                }
                for line in self.lines
            ],
            "adjustments": [{"name": name, "value": cents / 100} for name, cents in self.adjustments(totals)],
            "billing_address": address,
            "shipping_address": address,
            "payments": [{"number": self.row, "amount": total}] if self.completed else [],
        }


class _Shop:
    """A shop's state: its clock, its rows, its catalog. Shops with another `parity` have other numbers."""

    def __init__(self, codec: Codec, seed: int, parity: int) -> None:
        self.random = Random(2 * seed + parity)  # noqa: S311 - a simulation has no secrets
        self.now = _OPENING
        self._codec = codec
        self._rows = counted(1001)
        self._numbers = counted(self.random.randrange(0, _NUMBERS, 2) + parity, 2)
        opened = self._stamp(late=False)
        self._taxons = _taxons(opened)
        self._catalog = _catalog(self._taxons, opened)

    def story(self) -> Iterator[Hub]:
        """Yield messages without end: taxons and products, then carts and orders of several customers at a time."""
        for taxon in self._taxons.values():
            yield self._wrapped("taxon:new", {"taxon": taxon}, late=self._chance(0.3))
        for variant, price in self._catalog:
            yield self._product_message("product:new", variant, price)
        customers = [self._customers() for _ in range(_CUSTOMERS_AT_A_TIME)]
        while True:
            self.now += timedelta(milliseconds=self.random.randrange(1_000, 40_000))
            if self._chance(0.01):
                taxon = self.random.choice(list(self._taxons.values()))
                taxon["updated_at"] = self._stamp(late=False)
                yield self._wrapped("taxon:updated", {"taxon": taxon}, late=self._chance(0.3))
            elif self._chance(0.01):
                variant, price = self.random.choice(self._catalog)
                variant["product_updated_at"] = self._stamp(late=False)
                yield self._product_message("product:updated", variant, price)
            else:
                yield next(self.random.choice(customers))

    def _customers(self) -> Iterator[Hub]:
        """Yield the messages of one customer after the other. The clock advances between the messages."""
        while True:
            order = self._new_order()
            yield self._message("cart:new", order)
            while self._chance(0.6):
                self._change_lines(order)
                yield self._message("cart:updated", order)
            if self._chance(0.4):
                continue  # the cart is abandoned
            order.status, order.completed = "complete", self._touch(order)
            yield self._message("order:new", order)
            while self._chance(0.3):
                before = order.normalized()
                self._change_lines(order)
                yield self._message("order:updated", order, before)
            if self._chance(0.2):
                before = order.normalized()
                order.status, order.canceled = "canceled", self._touch(order)
                yield self._message(self.random.choice(("order:updated", "order:canceled")), order, before)

    def _new_order(self) -> _Order:
        """Make a cart with one line."""
        late = self._chance(0.3)
        now = self._stamp(late=late)
        order = _Order(
            late=late,
            row=next(self._rows),
            # Scattered, but unique: the factor and the modulus have no common divisor.
            number=f"R{next(self._numbers) * 617_283_947 % _NUMBERS:09d}",
            customer=self.random.randrange(1, 2000),
            visit={
                **{name: str(self.random.randrange(10**15, 10**16)) for name in ("visit_id", "visitor_id")},
                **dict.fromkeys(("pageview_id", "last_pageview_id"), "0"),
            },
            lines=[],
            promotion=self.random.choice((0, 0, 10, 15)),
            created=now,
            updated=now,
        )
        self._change_lines(order)
        return order

    def _change_lines(self, order: _Order) -> None:
        """Add a line or change a quantity."""
        self._touch(order)
        variant, price = self.random.choice(self._catalog)
        line = next((line for line in order.lines if line.variant is variant), None)
        if line is None and len(order.lines) < _MOST_LINES and (not order.lines or self._chance(0.7)):
            order.lines.append(_Line(next(self._rows), variant, price, self.random.choice((1, 1, 1, 2, 3))))
        else:
            line = line or self.random.choice(order.lines)
            line.quantity += -1 if line.quantity > 1 and self._chance(0.4) else 1

    def _message(self, message_type: str, order: _Order, before: Hub | None = None) -> Hub:
        """Make the message about a cart or order. `before` is the order before the change, if it was changed."""
        kind, form = kind_of(message_type) or "", order.normalized()
        if kind == "cart" and order.late:
            return self._wrapped(message_type, {"cart": order.raw()}, late=True)
        sections: Hub = {kind: form, "original": order.raw()}
        if before:
            changed = (name for name in ("status", "updated_at") if before[name] != form[name])
            sections |= {"previous": before, "diff": {name: [before[name], form[name]] for name in changed}}
        return self._wrapped(message_type, sections, late=order.late)

    def _product_message(self, message_type: str, variant: Hub, price: int) -> Hub:
        """Make the message about a product: as the shop has it, or as late hubs do, with its sizes."""
        late, sku, taxons = self._chance(0.3), variant["sku"], variant["product"]["taxons"]
        product: Hub = {"name": variant["name"], "sku": sku, "price": _money(price), "images": variant["images"]}
        if late:
            sizes = ("S", "M", "L") if any(taxon["name"] in _SIZED for taxon in taxons) else ()
            product |= {
                "id": sku,
                "available_on": variant["product_created_at"],
                "updated_at": variant["product_updated_at"],
                "meta_data": {"jirafe": {"taxons": taxons}},
                "variants": [{"sku": f"{sku}-{size}", "options": {"size": size}} for size in sizes],
            }
        else:
            dates = {name: variant[f"product_{name}"] for name in ("created_at", "updated_at")}
            product |= {"id": variant["product_id"], "taxons": taxons, "variants": [], **dates}
        return self._wrapped(message_type, {"product": product}, late=late)

    def _wrapped(
        self, message_type: str, sections: Hub, parameters: Parameters = _PARAMETERS, *, late: bool
    ) -> Hub:
        """Wrap an object as a hub does. Late hubs name the type only if the object does not show it."""
        message_id = f"{self.random.getrandbits(96):024x}"
        if late:
            named = {} if message_type.endswith(":new") else {"message": message_type}
            underscored = {name.replace(".", "_"): value for name, value in parameters}
            return {"request_id": message_id, **named, **sections, "parameters": underscored}
        listed = [{"name": name, "value": value} for name, value in parameters]
        return {"message": message_type, "message_id": message_id, "payload": {**sections, "parameters": listed}}

    def produced(self, document: Hub) -> Produced:
        """Make the record of a hub's message."""
        message = to_message(document)
        kind = cast("TopicKind", kind_of(message["message"]))
        return Produced(kind, (key_of(message) or "").encode(), self._codec.encode(kind, message), None)

    def broken(self, fault: str) -> Produced:
        """Make a record with this fault."""
        document = self._faulty(fault)
        record = self.produced(document)
        value = record.value
        match fault:
            case "truncated JSON":
                value = orjson.dumps(document)[:-1]
            case "truncated Avro":
                value = value[: len(value) // 2]
            case "unknown schema":  # the bytes of the fingerprint, or of the registry's id, in the wrong order
                start, end = (1, 5) if value[0] == 0 else (2, 10)
                value = value[:start] + value[start:end][::-1] + value[end:]
        return record._replace(value=value, broken=fault)

    def _faulty(self, fault: str) -> Hub:
        """Make a hub's message with this fault, or a good one if the fault is in the bytes."""
        order = self._new_order()
        match fault:
            case "unknown message type":
                return self._message("order:exploded", order)
            case "missing taxonomy parameter":
                taxon = _taxon(order.row, "Unsorted", 2, None, order.created)
                return self._wrapped("taxon:new", {"taxon": taxon}, _STORE, late=order.late)
            case "unreadable date":  # as real hubs have written it
                order.status, order.completed = "complete", order.created.replace(":", " =>")
                return self._message("order:new", order)
            case "missing currency":
                order.currency = None
            case "negative total":
                order.promotion = 200
        return self._message("cart:new", order)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _touch(self, order: _Order) -> str:
        order.updated = self._stamp(late=order.late)
        return order.updated

    def _stamp(self, *, late: bool) -> str:
        """Write the current time as hubs of that age do."""
        return self.now.isoformat(timespec="milliseconds" if late else "seconds").replace("+00:00", "Z")


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def _taxon(identity: int, name: str, taxonomy: int, parent: int | None, created: str) -> Hub:
    dates = {"created_at": created, "updated_at": created}
    return {"id": identity, "name": name, "taxonomy_id": taxonomy, "parent_id": parent, **dates}


def _taxons(created: str) -> dict[str, Hub]:
    """Make the taxons, by name."""
    taxons: dict[str, Hub] = {}
    for taxonomy, root, names in _TAXONOMIES:
        top = len(taxons) + 1
        taxons[root] = _taxon(top, root, taxonomy, None, created)
        for identity, name in enumerate(names, top + 1):
            taxons[name] = _taxon(identity, name, taxonomy, top, created)
    return taxons


def _catalog(taxons: dict[str, Hub], created: str) -> list[tuple[Hub, int]]:
    """Make the variants, with their prices: every article of every brand."""
    catalog = []
    offers = ((*brand, *article) for brand in _BRANDS for article in _ARTICLES)
    for row, (brand, prefix, article, price, names) in enumerate(offers, 1):
        name = f"{brand} {article}"
        image = f"/spree/products/{row}/product/{name.lower().replace(' ', '_').replace('.', '')}.jpeg"
        variant = {
            "id": row,
            "product_id": row,
            "name": name,
            "sku": f"{prefix}-{row:05d}",
            "price": _money(price),
            "images": [{"attachment_url": image}],
            "product_created_at": created,
            "product_updated_at": created,
            "product": {"taxons": [taxons[name] for name in (*names, brand)]},
        }
        catalog.append((variant, price))
    return catalog
