"""A simulated world: the real engine and the real delivery, in one thread and in virtual time, from one seed.

    kernel.py    virtual time, processes, tasks that take turns
    broker.py    Kafka: logs, transactions, epochs, the group
    clients.py   its clients, as the engine calls them, and the network between them
    outside.py   the Jirafe API and the Schema Registry
    workload.py  what is produced, and the expected outcomes
    faults.py    what goes wrong, drawn by the seed
    ledger.py    what must hold
    world.py     one run: all of it together
    run.py       runs many worlds, or shows one
    mutants.py   defects that the simulation must find

The same seed makes the same run, event by event. `make simulate ARGS="--seeds 1000 --from 1"` runs many, and
`python -m tests.simulation.run --seed 17` shows one.

The engine's main loop, the library's calls and the handler are ordinary blocking code. Each runs in a greenlet. A
wait leaves the greenlet, and its end enters it again. The alternative is a thread for each, of which one runs at a
time. By measurement, a switch to another thread and back takes 70 microseconds, to another greenlet 1, and a
thread takes 20 times as long to make. A run switches about 2,000 times and takes a tenth of a second, so threads
would more than double its time.

It does not test the real library, the real protocol and real threads. The integration tests do, and
`tests/integration/test_contract.py` asks the simulated clients and a real broker the same questions.
"""
