"""Fuzzing: hostile input of every kind, tried in processes that may be lost (`make fuzz`).

A *target* (a module of `targets/`) draws a *case* from a seed and tries it on the real code. A case is JSON, in
which bytes are text of Latin-1, so it can be kept, read and shrunk. A trial fails if the code raises an unexpected
exception, breaks a rule of the target, takes too much processor time, time or memory, or crashes the process.

    __main__.py   the command line
    hunt.py       which trials run where, and which failures are reported
    losable.py    the parent's side of a worker process: what it was doing when it was lost
    worker.py     the worker process: draws cases and tries them within limits
    shrink.py     shrinks a failing case
    found.py      failing cases, kept in found/; `tests/processes/test_fuzz.py` tries them from then on
    draw.py       what all targets draw from
"""
