"""One try of a chunk, from records to outputs, at an API that answers by script."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import orjson
import pytest

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import REGISTRY, Delivery
from consumer.delivery.sending import Rules
from consumer.delivery.work import Work
from consumer.engine.ports import Chunk, Done, Retry
from consumer.engine.records import DeadLetter, Partition, Record
from jirafe.client import PROBE, Accepted, Answer, Answered, Client, Document, Failed, Forbidden, Rejected, Site
from schemas.codec import Codec, Headers, RegistryUnavailable
from schemas.hub import to_message
from schemas.own import own_schema
from tests.messages import order
from tests.registry import RegistryServer
from tests.unit.test_codec import plain

CODEC = Codec()
ORDERS = Partition("orders", 0)
Script = Callable[[Site, list[str]], Answer]


def accepting(_site: Site, names: list[str]) -> Answer:
    return Answered(tuple(Accepted() for _ in names))


class Api:
    def __init__(self, script: Script = accepting) -> None:
        self.script = script
        self.requests: list[tuple[str, list[str]]] = []

    def send(self, site: Site, documents: Sequence[Document]) -> Answer:
        if documents == [PROBE]:
            return self.script(site, ["probe"])
        names = [orjson.loads(document.json)["order_number"] for document in documents]
        self.requests.append((site.access_token, names))
        return self.script(site, names)


class FlakyCodec(Codec):
    """A codec whose registry can be away, for reading or for writing."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = True

    def decode_message(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        if not self.reads:
            raise RegistryUnavailable("the registry does not answer")
        return super().decode_message(data, headers)

    def encode(self, name: str, record: Mapping[str, Any]) -> bytes:
        if not self.writes:
            raise RegistryUnavailable("the registry does not answer")
        return super().encode(name, record)


def delivery(api: Api, codec: Codec = CODEC, decided: Counter[tuple[str, str]] | None = None) -> Delivery:
    counted: Counter[tuple[str, str]] = Counter() if decided is None else decided
    defaults = Defaults(Credentials("1", "ours"), {})
    return Delivery(codec, cast("Client", api), Rules(100_000, 3, 60.0), defaults, counted.update)


def record(offset: int, number: str, token: str | None = None, site: str = "1") -> Record:
    document = order(number, "order:updated")
    if token:
        given = {"jirafe.access_token": token, "jirafe.site_id": site}
        document["parameters"] = [{"name": name, "value": value} for name, value in given.items()]
    return Record("orders", 0, offset, 0, number.encode(), CODEC.encode("order", to_message(document)), ())


def chunk_of(*records: Record) -> Chunk[Work]:
    return Chunk(ORDERS, 1, list(records))


def always() -> bool:
    return True


def test_a_chunk_that_is_done_has_one_output_for_each_record_in_order() -> None:
    decided: Counter[tuple[str, str]] = Counter()
    tombstone = Record("orders", 0, 1, 0, b"R1", None, ())
    chunk = chunk_of(record(0, "R0"), tombstone, Record("orders", 0, 2, 0, None, b"?", ()), record(3, "R3"))
    done = delivery(Api(), decided=decided).handle(chunk, always)
    assert isinstance(done, Done)
    assert [output.record for output in done.outputs] == chunk.records
    assert [output.record.key for output in done.outputs] == [b"R0", b"R1", None, b"R3"]
    assert [output.dead_letter is None for output in done.outputs] == [True, True, False, True]
    assert done.working == {"1"}
    assert decided == {("order-accepted", "accepted"): 2}
    assert chunk.attempts == 1


def test_decided_events_are_not_sent_again() -> None:
    api = Api(lambda site, names: Failed("503", "down") if names == ["R2"] else accepting(site, names))
    subject = delivery(api)
    chunk = chunk_of(record(0, "R1"))
    assert isinstance(subject.handle(chunk, always), Done)
    chunk.records.append(record(1, "R2"))
    retry = subject.handle(chunk, always)
    assert isinstance(retry, Retry)
    assert (retry.trouble.cause, retry.trouble.waits_for) == ("503", "1")
    api.script = accepting
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    assert [names for _, names in api.requests] == [["R1"], ["R2"], ["R2"]]
    assert chunk.attempts == 3


def test_a_later_run_of_a_site_waits_for_an_earlier_one_that_failed() -> None:
    def first_token_fails(site: Site, names: list[str]) -> Answer:
        return Failed("503", "down") if site.access_token == "theirs" else accepting(site, names)

    api = Api(first_token_fails)
    chunk = chunk_of(record(0, "R1", "theirs"), record(1, "R1"), record(2, "R2", "theirs"))
    assert isinstance(delivery(api).handle(chunk, always), Retry)
    assert api.requests == [("theirs", ["R1"])]


def test_an_unreadable_chunk_waits_for_the_registry() -> None:
    codec, api = FlakyCodec(), Api()
    codec.reads = False
    subject, chunk = delivery(api, codec), chunk_of(record(0, "R1"))
    retry = subject.handle(chunk, always)
    assert isinstance(retry, Retry)
    assert (retry.trouble.waits_for, retry.trouble.cause) == (REGISTRY, "registry")
    assert api.requests == []
    codec.reads = True
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    assert done.working == {"1", REGISTRY}


def test_events_are_not_sent_again_while_their_result_cannot_be_encoded() -> None:
    codec, api = FlakyCodec(), Api()
    codec.writes = False
    subject, chunk = delivery(api, codec), chunk_of(record(0, "R1"))
    assert isinstance(subject.handle(chunk, always), Retry)
    codec.writes = True
    assert isinstance(subject.handle(chunk, always), Done)
    assert [names for _, names in api.requests] == [["R1"]]


def test_nothing_is_sent_for_a_partition_that_is_not_ours() -> None:
    api = Api()
    retry = delivery(api).handle(chunk_of(record(0, "R1")), lambda: False)
    assert isinstance(retry, Retry)
    assert (retry.trouble.cause, api.requests) == ("not-ours", [])


def test_new_credentials_apply_to_undecided_events() -> None:
    api = Api(
        lambda site, names: Forbidden("invalid_token") if site.access_token == "ours" else accepting(site, names)
    )
    subject, chunk = delivery(api), chunk_of(record(0, "R1"))
    held = subject.handle(chunk, always)
    assert isinstance(held, Retry)
    assert held.trouble.held
    subject.use(Defaults(Credentials("1", "new"), {}))
    assert isinstance(subject.handle(chunk, always), Done)


def test_suspects_are_given_up_only_while_their_site_works() -> None:
    api = Api(lambda site, names: Failed("500", "oops"))
    decided: Counter[tuple[str, str]] = Counter()
    subject, chunk = delivery(api, decided=decided), chunk_of(record(0, "R1"))
    assert not subject.give_up_suspects(chunk, "never tried", always)
    assert isinstance(subject.handle(chunk, always), Retry)
    assert not subject.give_up_suspects(chunk, "oops", always)
    api.script = lambda _site, names: (
        Answered((Rejected("name: None"),)) if names == ["probe"] else Failed("500", "oops")
    )
    assert subject.give_up_suspects(chunk, "oops", always)
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    letter = done.outputs[0].dead_letter
    assert letter is not None
    assert (letter.kind, letter.reason) == ("failing", "order-accepted: oops, again and again, only for this event")
    assert decided == {("order-accepted", "failing"): 1}


def test_a_suspect_that_was_accepted_later_is_not_given_up() -> None:
    failing = {"R1", "R2"}
    api = Api(lambda site, names: Failed("500", "oops") if failing & {*names} else accepting(site, names))
    subject, chunk = delivery(api), chunk_of(record(0, "R1"), record(1, "R2"))
    for _ in range(2):  # first together, then each alone
        assert isinstance(subject.handle(chunk, always), Retry)
    failing.remove("R1")
    assert isinstance(subject.handle(chunk, always), Retry)
    assert subject.give_up_suspects(chunk, "oops", always)
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    letters = [output.dead_letter for output in done.outputs]
    assert letters[0] is None
    assert letters[1] is not None
    assert letters[1].kind == "failing"


class CountingCodec(FlakyCodec):
    """Counts the records that it decodes."""

    decoded = 0

    def decode_message(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        message = super().decode_message(data, headers)
        self.decoded += 1
        return message


def test_a_prepared_chunk_is_not_decoded_again_and_sends_nothing_in_advance() -> None:
    codec, api = CountingCodec(), Api()
    subject = delivery(api, codec)
    chunk = Chunk[Work](ORDERS, 1, [record(0, "R1"), record(1, "R2")])
    subject.prepare(chunk)
    assert (codec.decoded, api.requests) == (2, [])
    chunk.records.append(record(2, "R3"))
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    assert [output.record.offset for output in done.outputs] == [0, 1, 2]
    assert (codec.decoded, api.requests) == (3, [("ours", ["R1", "R2", "R3"])])


def test_a_chunk_prepared_with_other_settings_is_mapped_again() -> None:
    api = Api()
    subject = delivery(api)
    subject.use(Defaults(Credentials(None, None), {}))
    chunk = Chunk[Work](ORDERS, 1, [record(0, "R1")])
    subject.prepare(chunk)
    subject.use(Defaults(Credentials("1", "ours"), {}))
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    assert (done.outputs[0].dead_letter, api.requests) == (None, [("ours", ["R1"])])


def test_a_record_that_cannot_be_prepared_yet_is_decoded_later() -> None:
    codec, api = FlakyCodec(), Api()
    subject = delivery(api, codec)
    chunk = Chunk[Work](ORDERS, 1, [record(0, "R1"), record(1, "R2")])
    codec.reads = False
    subject.prepare(chunk)
    codec.reads = True
    assert isinstance(subject.handle(chunk, always), Done)
    assert api.requests == [("ours", ["R1", "R2"])]


def test_the_dead_letter_of_a_record_that_is_given_up_quotes_no_error_text() -> None:
    handler = delivery(Api())
    chunk = chunk_of(record(7, "R7"))
    chunk.attempts = 3
    output = handler.give_up(chunk, ZeroDivisionError("a secret"))
    assert output.record == chunk.records[0]
    assert output.dead_letter == DeadLetter("internal", "the message could not be handled: ZeroDivisionError", 3)
    result = CODEC.decode_result(output.result)
    assert (result["code"], result["offset"]) == (500, 7)
    assert "ZeroDivisionError" in str(result["notifications"])
    assert "secret" not in str(result)


# a schema that the registry does not give


ODD_ANSWERS = [(403, b"{}"), (401, b"<html>"), (404, b"{}"), (404, b"gone"), (500, b""), (200, b"{}"), (302, b"")]


def record_by_id(offset: int, number: str, schema_id: int) -> Record:
    body = CODEC.encode("order", to_message(order(number, "order:updated")))[10:]
    return Record("orders", 0, offset, 0, number.encode(), b"\x00" + schema_id.to_bytes(4, "big") + body, ())


def known_id(server: RegistryServer) -> int:
    return server.keep(json.dumps(plain(own_schema("order"))), "orders-value")


@pytest.mark.parametrize("answer", ODD_ANSWERS)
@pytest.mark.parametrize("others_were_seen", [True, False])
def test_an_id_that_fails_alone_is_given_up(
    registry_server: RegistryServer, answer: tuple[int, bytes], *, others_were_seen: bool
) -> None:
    good = known_id(registry_server)
    registry_server.pages["/schemas/ids/77"] = answer
    subject = delivery(Api(), Codec(registry_server.registry()))
    if others_were_seen:
        assert isinstance(subject.handle(chunk_of(record_by_id(0, "R0", good)), always), Done)
    chunk = chunk_of(record_by_id(1, "R1", good), record_by_id(2, "R2", 77), record_by_id(3, "R3", 77))
    for _ in range(2):
        retry = subject.handle(chunk, always)
        assert isinstance(retry, Retry)
        assert "asked for the schema with the id 77" in retry.trouble.message
        # What others need works: only this chunk waits.
        assert retry.trouble.waits_for == REGISTRY
        assert REGISTRY in retry.working
        assert retry.trouble.isolating
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    first, *others = done.outputs
    assert first.dead_letter is None
    for output in others:
        assert output.dead_letter is not None
        assert output.dead_letter.kind == "undecodable"
        assert "77), 3 times for this id while other ids worked" in output.dead_letter.reason


def test_an_id_that_hangs_alone_is_given_up(registry_server: RegistryServer) -> None:
    good, codec = known_id(registry_server), Codec(registry_server.registry(timeout=1.0))
    subject = delivery(Api(), codec)
    assert isinstance(subject.handle(chunk_of(record_by_id(0, "R0", good)), always), Done)
    registry_server.hanging = "/schemas/ids/77"
    chunk = chunk_of(record_by_id(1, "R1", 77))
    assert [type(subject.handle(chunk, always)) for _ in range(3)] == [Retry, Retry, Done]


def test_no_id_is_given_up_while_all_ids_fail(registry_server: RegistryServer) -> None:
    good = known_id(registry_server)
    subject = delivery(Api(), Codec(registry_server.registry()))
    assert isinstance(subject.handle(chunk_of(record_by_id(0, "R0", good)), always), Done)
    registry_server.page = (403, b"{}")
    chunk = chunk_of(record_by_id(1, "R1", 77))
    for _ in range(50):
        retry = subject.handle(chunk, always)
        assert isinstance(retry, Retry)
        assert REGISTRY not in retry.working
        assert not retry.trouble.isolating
    registry_server.page = None
    assert isinstance(subject.handle(chunk, always), Done)


def test_an_id_that_the_registry_returns_later_is_read(registry_server: RegistryServer) -> None:
    good = known_id(registry_server)
    subject = delivery(Api(), Codec(registry_server.registry()))
    registry_server.pages[f"/schemas/ids/{good}"] = (403, b"{}")
    chunk = chunk_of(record_by_id(0, "R0", good))
    assert isinstance(subject.handle(chunk, always), Retry)
    registry_server.pages.clear()
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    assert done.outputs[0].dead_letter is None


# no registry is set


def stray(offset: int) -> Record:
    return record_by_id(offset, f"S{offset}", 7)


GARBAGE = Record("orders", 0, 0, 0, None, b"?", ())
TOMBSTONE = Record("orders", 0, 0, 0, b"R1", None, ())
JSON = Record("orders", 0, 0, 0, b"R1", b'{"message": "order:new"', ())


@pytest.mark.parametrize("others", [[], [TOMBSTONE], [GARBAGE], [JSON], [stray(1), stray(2)]])
def test_a_topic_that_needs_a_registry_is_held_and_the_trouble_names_the_setting(others: list[Record]) -> None:
    subject, chunk = delivery(Api()), chunk_of(*others, stray(5))
    for _ in range(20):
        retry = subject.handle(chunk, always)
        assert isinstance(retry, Retry)
        assert retry.trouble.held
        assert retry.trouble.waits_for == "schema registry for orders"
        assert retry.trouble.message.startswith(
            "orders needs a Schema Registry; set CONSUMER_SCHEMA_REGISTRY_URL, and restart (orders/0/"
        )
    # Another topic goes on.
    other = Chunk[Work](Partition("carts", 0), 1, [record(0, "R1")._replace(topic="carts")])
    done = subject.handle(other, always)
    assert isinstance(done, Done)
    assert done.working == {"1"}
    assert isinstance(subject.handle(chunk, always), Retry)


def test_a_record_with_an_id_among_readable_records_is_a_dead_letter() -> None:
    subject = delivery(Api())
    done = subject.handle(chunk_of(stray(0), record(1, "R1")), always)
    assert isinstance(done, Done)
    assert done.working == {"1"}
    assert [output.dead_letter is None for output in done.outputs] == [False, True]
    later = subject.handle(chunk_of(stray(2)), always)
    assert isinstance(later, Done)
    assert later.outputs[0].dead_letter is not None


def test_a_readable_record_shows_that_its_topic_needs_no_registry() -> None:
    document = {**order("R1", "order:updated"), "message": "order:exploded"}
    value = CODEC.encode("order", to_message(document))
    done = delivery(Api()).handle(chunk_of(stray(0), Record("orders", 0, 1, 0, b"R1", value, ())), always)
    assert isinstance(done, Done)
    letters = [output.dead_letter for output in done.outputs]
    assert [letter and letter.kind for letter in letters] == ["undecodable", "unknown-type"]


def test_a_later_readable_record_ends_the_hold_of_its_topic() -> None:
    subject, held = delivery(Api()), chunk_of(stray(0))
    assert isinstance(subject.handle(held, always), Retry)
    done = subject.handle(chunk_of(record(1, "R1")), always)
    assert isinstance(done, Done)
    assert done.working == {"1", "schema registry for orders"}
    assert isinstance(subject.handle(held, always), Done)


@pytest.mark.parametrize("cause", ["timeout", "connection"])
def test_a_chunk_of_many_sites_stops_at_the_first_that_cannot_be_reached(cause: str) -> None:
    api = Api(lambda _site, _names: Failed(cause, "gone"))
    chunk = chunk_of(*(record(number, f"R{number}", "theirs", f"site-{number}") for number in range(50)))
    retry = delivery(api).handle(chunk, always)
    assert isinstance(retry, Retry)
    assert (retry.trouble.waits_for, retry.trouble.cause) == ("site-0", cause)
    assert len(api.requests) == 1


def test_other_sites_are_sent_before_one_that_cannot_be_reached() -> None:
    def lost_hangs(site: Site, names: list[str]) -> Answer:
        return Failed("timeout", "hangs") if site.site_id == "lost" else accepting(site, names)

    api = Api(lost_hangs)
    subject = delivery(api)
    chunk = chunk_of(record(0, "R0", "theirs", "lost"), record(1, "R1"), record(2, "R2", "theirs", "2"))
    for _ in range(2):
        retry = subject.handle(chunk, always)
        assert isinstance(retry, Retry)
        assert retry.trouble.waits_for == "lost"
    assert [names for _, names in api.requests] == [["R0"], ["R1"], ["R2"], ["R0"]]
    assert retry.working == {"1", "2"}


def test_a_redelivery_gives_up_a_site_that_fails_while_another_works() -> None:
    api = Api(lambda site, names: accepting(site, names) if site.site_id == "1" else Failed("503", "down"))
    subject, chunk = delivery(api), chunk_of(record(0, "R0", "theirs", "2"), record(1, "R1"))
    assert isinstance(subject.handle(chunk, always), Retry)
    assert subject.give_up_suspects(chunk, "down", always)
    done = subject.handle(chunk, always)
    assert isinstance(done, Done)
    letters = [output.dead_letter for output in done.outputs]
    assert letters[0] is not None
    assert (letters[0].kind, letters[0].reason) == (
        "failing",
        "order-accepted: down, again and again, only for this site",
    )
    assert letters[1] is None


def test_a_redelivery_goes_on_with_the_next_site_after_one_that_failed_slowly_is_given_up() -> None:
    now = [0.0]

    def script(site: Site, names: list[str]) -> Answer:
        now[0] += 31 if site.site_id == "slow" else 0
        return accepting(site, names) if site.site_id == "1" else Failed("504", "late")

    rules, defaults = Rules(100_000, 1, 40.0), Defaults(Credentials("1", "ours"), {})
    api = Api(script)
    subject = Delivery(CODEC, cast("Client", api), rules, defaults, clock=lambda: now[0])
    assert isinstance(subject.handle(chunk_of(record(9, "R9", "theirs", "other")), always), Retry)
    chunk = chunk_of(record(0, "R0", "theirs", "slow"), record(1, "R1", "theirs", "other"))
    for site in ("slow", "other"):
        answer = subject.handle(chunk, always)
        assert isinstance(answer, Retry)
        assert answer.trouble.waits_for == site


def test_a_redelivery_gives_up_no_site_that_was_just_seen_to_work() -> None:
    down = {"a", "b"}
    api = Api(lambda site, names: Failed("503", "down") if site.site_id in down else accepting(site, names))
    subject = delivery(api)
    subject.use(Defaults(Credentials(None, None), {}))
    assert isinstance(subject.handle(chunk_of(record(0, "R0", "theirs", "b")), always), Retry)
    down.discard("b")
    assert isinstance(subject.handle(chunk_of(record(1, "R1", "theirs", "b")), always), Done)
    down.add("b")
    chunk = chunk_of(record(2, "R2", "theirs", "a"), *(record(n, f"R{n}", "theirs", "b") for n in (3, 4)))
    assert isinstance(subject.handle(chunk, always), Retry)
    down.discard("b")
    subject.give_up_suspects(chunk, "down", always)
    assert chunk.work is not None
    outcomes = [event.outcome for draft in chunk.work.drafts for event in draft.events]
    assert outcomes[1:] == [None, None]


def test_a_redelivery_that_gives_up_asks_each_site_once_and_stops_when_asked() -> None:
    probes: list[str] = []

    def script(site: Site, names: list[str]) -> Answer:
        if names == ["probe"]:
            probes.append(site.site_id)
        return Failed("500", "down")

    api = Api(script)
    records = [record(number, f"R{number}", "theirs", f"gone-{number % 3}") for number in range(100)]
    subject, chunk = delivery(api), chunk_of(*records)
    assert isinstance(subject.handle(chunk, always), Retry)
    probes.clear()
    assert not subject.give_up_suspects(chunk, "down", always)
    assert 1 <= len(probes) <= 4
    probes.clear()
    assert not subject.give_up_suspects(chunk, "down", lambda: False)
    assert probes == []


def test_a_redelivery_gives_up_no_site_of_the_settings() -> None:
    api = Api(lambda site, names: accepting(site, names) if site.site_id == "1" else Failed("503", "down"))
    subject, chunk = delivery(api), chunk_of(record(0, "R0", "theirs", "2"), record(1, "R1"))
    subject.use(Defaults(Credentials("1", "ours"), {}, frozenset({"2"})))
    assert isinstance(subject.handle(chunk, always), Retry)
    assert not subject.give_up_suspects(chunk, "down", always)


class BusyCodec(Codec):
    """A codec that counts how many threads use it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = 0
        self.most = 0

    def decode_message(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        with self._busy():
            return super().decode_message(data, headers)

    def encode(self, name: str, record: Mapping[str, Any]) -> bytes:
        with self._busy():
            return super().encode(name, record)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.threads += 1
        self.most = max(self.most, self.threads)
        time.sleep(0.0005)
        yield
        self.threads -= 1


def test_workers_take_turns_at_decoding_and_send_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.delivery.turns._LONGEST_WAIT", 60.0)  # on a busy machine, a turn may take long
    together = threading.Barrier(3)

    def slow(site: Site, names: list[str]) -> Answer:
        together.wait(60)  # broken, which raises, unless all three send at once
        return accepting(site, names)

    codec = BusyCodec()
    deliveries = delivery(Api(slow), codec)
    chunks = [Chunk[Work](Partition("orders", n), 0, [record(at, f"R{at}") for at in range(8)]) for n in range(3)]
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda chunk: deliveries.handle(chunk, lambda: True), chunks))
    assert [type(answer) for answer in answers] == [Done] * 3
    assert codec.most == 1
