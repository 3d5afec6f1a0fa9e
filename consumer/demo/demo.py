"""The demo: the real service delivers the messages of a simulated shop, and the counts are checked at the end."""

import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from consumer import app, settings
from consumer.admin.reading import read_topic
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, NotInTime, await_that, free_port
from consumer.demo.shop import shop
from consumer.engine.records import Place, Record
from consumer.errors import Interrupted
from consumer.printing import Console
from consumer.stop import Stop
from schemas.codec import Codec

_SITE, _TOKEN = "demo", "demo-token"
_STALLED_AFTER = 60.0
_LOOK = 0.2
_MOST_QUEUED = 50_000  # the library takes 100,000 messages


def run_demo(console: Console, count: int, *, keep: bool, stop: Stop) -> int:
    """Run the demo, and return the exit status: 0 if every message has exactly one result, else 1.

    Raises Interrupted soon after it is asked to stop.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jirafe-demo-")))
        console.print("Starting an embedded broker, a Jirafe sandbox and the consumer ...")
        broker = stack.enter_context(EmbeddedBroker())
        port = str(free_port())
        api = f"http://127.0.0.1:{port}"
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_SESSION_TIMEOUT_MS": "6000",
            "JIRAFE_URL": f"{api}/v2",
            "JIRAFE_SITE_ID": _SITE,
            "JIRAFE_ACCESS_TOKEN": _TOKEN,
        }
        sandbox = ["sandbox", "--port", port, "--site", _SITE, "--token", _TOKEN]
        stack.enter_context(CommandProcess(sandbox, {}, folder / "sandbox.log"))
        page = f"127.0.0.1:{free_port()}"
        served = {**environment, "CONSUMER_HTTP_ADDRESS": page}
        consumer = stack.enter_context(CommandProcess(["run"], served, folder / "consumer.log"))
        demo = _Demo(console, settings.load(None, environment), api, consumer, stop)
        try:
            await_that("the sandbox answers", demo.has_sandbox)
            await_that("the consumer has its partitions", demo.has_partitions)
            demo.flow(count)
            complete = demo.check(count)
        except NotInTime as error:
            console.print(f"[red]{error}[/]; the last lines of its log:\n{consumer.log.read_text()[-2000:]}")
            return 1
        if keep:
            _tell_what_to_try(console, environment, api, f"http://{page}")
            stop.wait()
            console.print("Ending.")
        return 0 if complete else 1


class _Demo:
    def __init__(
        self,
        console: Console,
        loaded: settings.Settings,
        api: str,
        consumer: CommandProcess,
        stop: Stop,
    ) -> None:
        self._stop = stop
        self._console = console
        self._settings = loaded
        self._api = api
        self._consumer = consumer
        self._cluster = app.make_cluster(loaded)
        self._produced = 0
        self._broken = 0
        self._seconds = 0.0

    def _check_stopped(self) -> None:
        if self._stop.is_asked:
            raise Interrupted

    def has_sandbox(self) -> bool:
        """Return whether the sandbox answers. Raises Interrupted."""
        self._check_stopped()
        return self.stats() is not None

    def has_partitions(self) -> bool:
        """Return whether the consumer has its partitions. Raises Interrupted."""
        self._check_stopped()
        return self._consumer.said('"event": "assigned"') > 0

    def stats(self) -> dict[str, Any] | None:
        """Ask the sandbox what it received. Returns None while it does not answer."""
        try:
            stats: dict[str, Any] = requests.get(f"{self._api}/sandbox/stats", timeout=5).json()
        except requests.RequestException:
            return None
        return stats

    def flow(self, count: int) -> None:
        """Produce the shop's messages, and read results until each message has one. Raises NotInTime."""
        producing = threading.Thread(target=self._produce, args=(count,), daemon=True)
        producing.start()
        seen = set[Place]()
        begun = progressed = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            produced_bar = progress.add_task("messages produced", total=count)
            results_bar = progress.add_task("results published", total=count)
            for result in self._results(follow=True):
                if result is not None:
                    seen.add(Place(result["topic"], result["partition"], result["offset"]))
                    progressed = time.monotonic()
                progress.update(produced_bar, completed=self._produced)
                progress.update(results_bar, completed=len(seen))
                if len(seen) == count:
                    break
                if time.monotonic() > progressed + _STALLED_AFTER or self._consumer.status is not None:
                    raise NotInTime(f"only {len(seen)} of {count} messages have a result, and no more results come")
        self._seconds = time.monotonic() - begun
        producing.join()

    def _produce(self, count: int) -> None:
        producer = self._cluster.make_producer(self._cluster.client_properties("shop"))
        topics = self._settings.topics_by_kind
        for message in shop(count):
            while len(producer) > _MOST_QUEUED:
                producer.poll(_LOOK)
            producer.produce(topics[message.topic_kind], message.value, message.key)
            self._broken += message.broken is not None
            self._produced += 1
            producer.poll(0)
        producer.flush(_STALLED_AFTER)

    def _results(self, *, follow: bool) -> Iterator[dict[str, Any] | None]:
        codec = Codec()
        topic = self._settings.stream.results_topic
        for record in self._read(topic, follow=follow):
            yield codec.decode(record.value) if record and record.value else None

    def _read(self, topic: str, *, follow: bool) -> Iterator[Record | None]:
        for record in read_topic(self._cluster, topic, start="beginning", follow=follow):
            self._check_stopped()
            yield record

    def check(self, count: int) -> bool:
        """Print what became of the messages, counted in the topics and by the API. Returns whether it is right."""
        results = [result for result in self._results(follow=False) if result]
        places = Counter(Place(result["topic"], result["partition"], result["offset"]) for result in results)
        levels = Counter(n["level"] for result in results for n in result["notifications"])
        codes = Counter(result["code"] for result in results)
        letters = sum(1 for _ in self._read(self._settings.stream.dead_letters_topic, follow=False))
        verdicts = Counter[str]()
        for kind in (self.stats() or {"events": {}})["events"].values():
            verdicts.update(kind)
        complete = len(places) == len(results) == count and letters == codes[500]
        table = Table("", "", title="Summary", title_justify="left", show_header=False)
        table.columns[1].justify = "right"
        for name, value in {
            "messages produced": count,
            "  broken on purpose": self._broken,
            "events accepted by the API": verdicts["accepted"],
            "events refused by the API": verdicts["rejected"],
            "results": len(results),
            "  notifications of level info": levels["info"],
            "  notifications of level error": levels["error"],
            "dead letters": letters,
            "messages per second": round(count / self._seconds),
        }.items():
            table.add_row(name, f"{value:,}")
        self._console.print(table)
        if complete:
            self._console.print(
                "[green]Every message has exactly one result, and every failed one is a dead letter.[/]"
            )
        else:
            self._console.print(
                f"[red]There are {len(results)} results for {len(places)} of {count} messages. {codes[500]} "
                f"messages failed, and there are {letters} dead letters.[/]"
            )
        return complete


def _tell_what_to_try(console: Console, environment: dict[str, str], api: str, page: str) -> None:
    program = _program()
    console.print(f"\nThe status page of the consumer: {page}", style="bold")
    console.print("\nEverything keeps running. In another terminal:", style="bold")
    for name, value in environment.items():
        console.print(f"  export {name}={value}", soft_wrap=True)
    for what, command in (
        ("follow the results", f"{program} results --follow"),
        ("see what failed", f"{program} results --json | grep '\"code\":500'"),
        ("see what the API received", f"curl -s '{api}/sandbox/events?limit=5'"),
        (
            "take the API down for the next 20 requests",
            f'curl -s {api}/sandbox/faults -d \'{{"action": "status", "status": 503, "times": 20}}\'',
        ),
        (
            "send your own messages: edit these first",
            f"{program} init my-shop && {program} produce my-shop/messages/order-new.json",
        ),
        ("add a second member to the group", f"{program} run"),
    ):
        console.print(f"  [dim]# {what}[/]\n  {command}", soft_wrap=True, highlight=False)
    console.print("Press Ctrl-C to stop.")


def _program() -> str:
    """Return the command that started us: our script, or Python with our package."""
    script = Path(sys.argv[0])
    return shlex.join([sys.executable, "-m", "consumer"] if script.name == "__main__.py" else [str(script)])
