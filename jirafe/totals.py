"""The totals of a cart or an order. Messages state discounts in many ways; the other totals show which is right."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jirafe.fields import Body, Section, finite
from jirafe.sourced import Sourced, derived

_SAME = 0.005
"""Amounts that differ by less than half a cent count as equal."""

_TAX = "TaxRate"
_DISCOUNT = ("discount", "promo", "coupon", "voucher", "rebate")


class _Reading(NamedTuple):
    """One way to read a message's discounts: their sum, as a positive number, and the parts that make it."""

    sum: float
    parts: Sequence[Section]


def totals(first: Section, second: Section, items: Sequence[Section]) -> Body:
    """Return the totals of two sections. The first has priority. Raises Unmappable."""
    body: Body = {
        "subtotal": _amount(first, second, "item_total"),
        "total": _amount(first, second, "total"),
        "total_tax": _amount(first, second, "tax_total"),
        "total_shipping": _amount(first, second, "ship_total"),
        # The fee of the payment method: the amount paid is not a cost.
        "total_payment_cost": _amount(first, second, "payment_fee"),
    }
    body["total_discounts"] = _discounts(body, first, second, items)
    return body


def _amount(first: Section, second: Section, name: str) -> float:
    value = first.get(name)
    if value is None:
        value = second.get(name)
    return 0 if value is None else finite(name, value)


def _discounts(body: Body, first: Section, second: Section, items: Sequence[Section]) -> float:
    """Sum the discounts, as a positive number, in the reading with which the message's totals add up.

    Because `total = subtotal + tax + shipping - discounts`, at most one sum is right. If no reading gives it, the
    amount that the message names as its discounts is used, else the sum of what it deducts.
    """
    chosen = None
    readings = _readings(first, second, items)
    if first.get("total") is not None or second.get("total") is not None:
        off = body["subtotal"] + body["total_tax"] + body["total_shipping"] - body["total"]
        for reading in readings:
            if reading.parts and abs(reading.sum - off) < _SAME:
                return _told(reading, "since the totals only add up so")
            chosen = chosen or (reading if reading.parts else None)
        if chosen and abs(off) < _SAME:
            return _told(chosen._replace(sum=0), "since the totals add up without it")
        if off >= _SAME:
            for guess in _guesses(first, second, items):
                if abs(guess.sum - off) < _SAME:
                    return _told(guess, "since the totals only add up so")
    chosen = chosen or next((reading for reading in readings if reading.parts), None)
    if chosen:
        return _told(chosen, "")
    # What is not counted matters only if someone asks why: then the message is marked.
    marked = [
        each for several in _of_orders(first, second) for each in several if isinstance(each["amount"], Sourced)
    ]
    if marked and (uncounted := next(_guesses(first, second, items), None)):
        return _told(uncounted._replace(sum=0), "since the totals don't add up with it")
    return 0


def _told(reading: _Reading, why: str) -> float:
    """Return a reading's sum. If it is marked, its mark names the adjustments."""
    amounts = [part["amount"] for part in reading.parts]
    if not isinstance(amounts[0], Sourced):  # all parts of a message are marked, or none
        return reading.sum
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(part.get("label") for part in reading.parts) if name)
    return derived(reading.sum, *amounts, why=", ".join(part for part in (names, why) if part))


def _readings(first: Section, second: Section, items: Sequence[Section]) -> Iterator[_Reading]:
    """Yield the readings of the message's discounts, the likeliest first; none if it has no discounts."""
    of_items = _off_items(items)
    for section in (first, second):
        if total := section.get("discount_total"):
            named, part = abs(finite("discount_total", total)), {"amount": total}
            yield _Reading(named, [part])
            # It may be only the order's, without the items'.
            yield _Reading(round(named + _reading(of_items).sum, 4), [part, *of_items])
    for adjustments in _of_orders(first, second) or [()]:
        of_order = _off(adjustments)
        if of_order or of_items:
            yield _reading(of_order + of_items)
            # If items and order both have adjustments, the order's may be the sum. Old shops have none on items.
            yield _reading(of_order)


def _guesses(first: Section, second: Section, items: Sequence[Section]) -> Iterator[_Reading]:
    """List readings that count only if the totals add up. FlowLink has discounts as a positive "Discounts"."""
    for adjustments in _of_orders(first, second):
        if positive := [each for each in adjustments if _is_positive_discount(each)]:
            yield _reading(positive + _off(adjustments) + _off_items(items))
            yield _reading(positive)


def _reading(adjustments: Sequence[Section]) -> _Reading:
    off = sum([abs(each["amount"]) for each in adjustments])
    return _Reading(round(finite("adjustments", off), 4), adjustments)


def _of_orders(first: Section, second: Section) -> list[Sequence[Section]]:
    return [adjustments for section in (first, second) if (adjustments := section.get("adjustments"))]


def _off_items(items: Sequence[Section]) -> list[Section]:
    return [each for item in items if (adjustments := item["adjustments"]) for each in _off(adjustments)]


def _off(adjustments: Sequence[Section]) -> list[Section]:
    """Pick the adjustments that deduct something, and NaN, which is reported later. Taxes have their own total."""
    return [
        each
        for each in adjustments
        if (amount := each["amount"]) is not None
        and not amount >= 0
        and each["eligible"]
        and _TAX not in (each["source"] or "")
    ]


def _is_positive_discount(adjustment: Section) -> bool:
    amount = adjustment["amount"]
    if not (amount and amount > 0 and adjustment["eligible"]):
        return False
    label = (adjustment["label"] or "").lower()
    for word in _DISCOUNT:  # `any` would take three times as long # noqa: SIM110
        if word in label:
            return True
    return False
