"""A typical consumer: poll, decode, map, post, produce and commit, one batch after the other.

It has the same mapping, and requests of the same size. It delivers at least once, and publishes a result twice if
it is killed between producing and committing. A bad message, a refused event or an outage ends it.
"""

import os
import time
from io import BytesIO
from typing import Any

import orjson
import requests
from confluent_kafka import Consumer, Producer
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form

from jirafe.services import Event, make_events, notification_of_sent
from schemas.own import OWN_SCHEMAS, own_schema

BATCH = 500


def header(name: str) -> bytes:
    """Give the bytes before each record of a schema: the framing and the schema's fingerprint."""
    canonical = to_parsing_canonical_form(own_schema(name))
    return b"\xc3\x01" + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))


def main() -> None:
    """Consume BENCH_MESSAGES messages. Print the processor time per message in seconds, after the warm-up."""
    left = int(os.environ["BENCH_MESSAGES"])
    warm_from = left - int(os.environ["BENCH_WARM_UP"])
    servers = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}
    consumer = Consumer(
        {**servers, "group.id": "plain", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.subscribe(os.environ["BENCH_TOPICS"].split(","))
    producer = Producer({**servers, "linger.ms": 5, "compression.type": "lz4"})
    session = requests.Session()
    url = f"{os.environ['JIRAFE_URL']}/1/batch"
    schemas = {header(name): own_schema(name) for name in OWN_SCHEMAS}
    result_header = header("result")
    begun, counted = 0.0, 0
    while left:
        records = consumer.consume(BATCH, 0.2)
        if not records:
            continue
        if left <= warm_from:
            begun = begun or time.process_time()
            counted += len(records)
        arrays: dict[str, list[object]] = {}
        results = []
        for record in records:
            value = record.value() or b""
            message: Any = schemaless_reader(BytesIO(value[10:]), schemas[value[:10]], None)
            parameters, timestamp = message["parameters"], record.timestamp()[1]
            notifications = []
            for event in make_events(message["message"], message["payload"], parameters, timestamp):
                if isinstance(event, Event):
                    arrays.setdefault(event.kind.array, []).append(event.body)
                    notifications.append(notification_of_sent(event.kind, event.name))
            result = {
                "message_id": message["message_id"],
                "message": message["message"],
                "code": 200,
                "notifications": notifications,
                "topic": record.topic(),
                "partition": record.partition(),
                "offset": record.offset(),
                "timestamp": timestamp,
            }
            buffer = BytesIO(result_header)
            buffer.seek(0, os.SEEK_END)
            schemaless_writer(buffer, schemas[result_header], result)
            results.append((record.key(), buffer.getvalue()))
        headers = {"Authorization": "Bearer token", "Content-Type": "application/json"}
        session.post(url, orjson.dumps(arrays), headers=headers, timeout=30).raise_for_status()
        for key, value in results:
            producer.produce("plain.results", value, key)
        producer.flush()
        consumer.commit(asynchronous=False)
        left -= len(records)
    print((time.process_time() - begun) / counted, flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
