"""Commands that stop on a signal."""

import subprocess
import sys

_ROUNDS = 100


def test_a_signal_stops_a_command_at_any_moment() -> None:
    """Each round gets one signal, at a random moment of its waits."""
    program = (
        "import random, signal\n"
        "from consumer.cli.usage import stop_on_signal\n"
        "signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGTERM))\n"
        f"for _ in range({_ROUNDS}):\n"
        "    stop = stop_on_signal()\n"
        "    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.01))\n"
        "    while not stop.wait(0):\n"
        "        pass\n"
        "print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
