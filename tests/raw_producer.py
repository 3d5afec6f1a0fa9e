"""A producer of headers with any names, as C programs can make them. The Python client accepts only text."""

import ctypes
from collections.abc import Iterable

from confluent_kafka import cimpl

_TOPIC, _VALUE, _KEY, _FLAGS, _HEADER, _END = 1, 4, 5, 7, 9, 0
_COPY = 2
_PRODUCER = 0


def produce_raw_headers(
    bootstrap_servers: str, topic: str, key: bytes, value: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    """Produce one record directly with librdkafka, and wait until the broker has it."""
    library = ctypes.CDLL(cimpl.__file__)
    for function in ("rd_kafka_conf_new", "rd_kafka_new"):
        getattr(library, function).restype = ctypes.c_void_p
    failure = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert not library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap_servers.encode(), failure, 512)
    handle = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, conf, failure, ctypes.c_size_t(512)))
    assert handle.value, failure.value
    try:
        arguments: list[object] = [_TOPIC, topic.encode(), _FLAGS, _COPY]
        arguments += [_KEY, key, ctypes.c_size_t(len(key)), _VALUE, value, ctypes.c_size_t(len(value))]
        for name, content in headers:
            arguments += [_HEADER, name, content, ctypes.c_ssize_t(len(content))]
        assert library.rd_kafka_producev(handle, *arguments, _END) == 0
        assert library.rd_kafka_flush(handle, 10_000) == 0
    finally:
        library.rd_kafka_destroy(handle)
