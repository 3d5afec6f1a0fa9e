"""The memory that reading a large file needs."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_a_large_file_is_read_in_little_memory() -> None:
    script = """
from consumer.admin.produce import Spool, UnknownTypes, encode_all
from consumer.admin.spelling import Spelling
from schemas.codec import Codec
from tests.messages import order
import json
def blocks(shape):
    first, between, last = shape
    text = json.dumps(order("R1", note="x" * 60000)).encode()
    yield first + text
    for _ in range(5):
        yield (between + text) * 100
    yield last
def peak():
    # The usage that is asked of the system begins with what the parent had.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
codec, spelling, spool = Codec(), Spelling(), Spool()
def run(shape):
    count = 0
    for message in encode_all("file", blocks(shape), codec, 1_000_000, spelling, UnknownTypes()):
        spool.add("orders", message)
        count += 1
    assert count == 501
run((b"", b"\\n", b""))
before = peak()
run((b"[", b",", b"]"))
run((b"", b"", b""))
assert sum(1 for _ in spool) == 1_503
print(before, peak())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 200 * 1024  # kB, for 90 MB of JSON
    assert after - before < 20 * 1024
