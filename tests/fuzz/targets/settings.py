"""The environment, an env file and the files that settings name. Errors are reported, and nothing else is raised."""

import tempfile
from functools import cache
from pathlib import Path
from random import Random

from consumer import app, settings
from consumer.errors import ConsumerError
from tests.fuzz import draw as drawing
from tests.fuzz.draw import chance
from tests.fuzz.targets import Breach, Case, Limits, latin

LIMITS = Limits()

SECRET = "an-access-token-of-nobody"

_OF_PLAIN = 2
_ALONE = {
    "bootstrap.servers": "127.0.0.1:9",
    "reconnect.backoff.ms": 10_000,
    "log_level": 0,
    "debug": "",
    "enable.partition.eof": True,
}
_PLAIN = {"JIRAFE_SITE_ID": "1", "JIRAFE_ACCESS_TOKEN": SECRET, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
_KAFKA = (
    "GROUP_ID", "GROUP_INSTANCE_ID", "SESSION_TIMEOUT_MS", "HEARTBEAT_INTERVAL_MS", "MAX_POLL_INTERVAL_MS", "SASL_USERNAME",
    "SASL_PASSWORD", "SASL_MECHANISM", "SECURITY_PROTOCOL", "SSL_CA_LOCATION", "CLIENT_ID", "TRANSACTIONAL_ID", "ACKS",
    "ENABLE_AUTO_COMMIT", "GROUP_PROTOCOL", "LINGER_MS", "NO_SUCH_PROPERTY", "", "_", "SSL_CA_PEM", "SSL_KEY_PASSWORD", "DEBUG",
)  # fmt: skip
_URLS = (
    "http://", "https://[", "http://[::1", "http://a:b/", "http://a:99999/", "http://a:0/", "http://a:-1/", "http://a b/", "//a", "a",
    "http://u:p@a/", "http://a/?q", "http://a/#f", "http://\u0660/", "http://xn--/", "http://" + "a" * 300, "http://a..b", "http://%/",
    "http://*/", "http://\\a", "HTTP://A/", "http://a:\u0661/", "http://127.0.0.1:9/v2", "http://[::1]:9/v2/", "http://\u2100/", "http://a:\t1/",
)  # fmt: skip
_NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "5",
    "30",
    "1e3",
    "1e999",
    "nan",
    "inf",
    "1_000",
    " 5 ",
    "5.0",
    "٣",
    "²",
    "0x10",
    "9" * 30,
    "9" * 5000,
    "",
    "00",
    "+5",
)
_ADDRESSES = (
    "off",
    "0",
    "8000",
    ":8000",
    "a:8000",
    "[::1]:8000",
    "a:b",
    "a:²",
    "a:٣",
    "65536",
    "127.0.0.1:0",
    ":::",
    "a:" + "9" * 5000,
)


def draw(random: Random) -> Case:
    """Draw names and values, some of them in a file, and the files that they may name."""
    given = {**_PLAIN, **dict(_setting(random) for _ in range(random.choice((0, 1, 1, 2, 3, 6))))}
    if "JIRAFE_ACCESS_TOKEN_FILE" in given:
        del given["JIRAFE_ACCESS_TOKEN"]
    filed = dict(_setting(random) for _ in range(random.choice((1, 2, 5))))
    quote = random.choice(("", "", '"', "'"))
    lines = [
        f"{random.choice(('', 'export ', ' '))}{name}{random.choice(('=', '=', ' = ', ':'))}{quote}{value}{quote}"
        for name, value in filed.items()
    ]
    content = (
        random.choice(("\n", "\n", "\r\n", "\r"))
        .join(lines)
        .encode(random.choice(("utf-8", "utf-8", "utf-16")), "surrogatepass")
    )
    if chance(random, 0.3):
        content = drawing.damaged(random, content)
    return {
        "environ": {
            latin(name.encode(errors="replace")): latin(value.encode(errors="surrogatepass"))
            for name, value in given.items()
        },
        "env_file": None if chance(random, 0.3) else latin(content),
        "file": latin(_pem(random)),
    }


def _setting(random: Random) -> tuple[str, str]:
    prefix, group = random.choice(list(settings.GROUPS.items()))
    kind = random.random()
    if kind < 0.25:
        name = "KAFKA_" + random.choice(_KAFKA)
    elif kind < 0.95:
        name = prefix + random.choice(list(group.model_fields)).upper()
    else:
        name = random.choice(("KAFKA_", "JIRAFE_", "CONSUMER_", "")) + drawing.utf8(random)
    if chance(random, 0.1):
        name += "_FILE"
    # Neither can be in a name or value of the environment.
    return name.replace("\0", "").replace("=", "") or "A", _value(random, name).replace("\0", "")


def _value(random: Random, name: str) -> str:
    if chance(random, 0.2):
        return drawing.text(random)
    if name.endswith("URL"):
        return random.choice(_URLS)
    if "ADDRESS" in name:
        return random.choice(_ADDRESSES)
    if name.endswith(("_CA", "CERTIFICATE", "_KEY", "FOLDER", "LOCATION", "_FILE")):
        return random.choice(("@file", "@folder", "@none", "", ".", "@file/x", "\ud800", "a" * 5000))
    return random.choice(
        (*_NUMBERS, "true", "no", "info", "json", "consumer", "range", SECRET, "\udcff", "\x1b[31m", "a\nb")
    )


def _pem(random: Random) -> bytes:
    text = random.choice(
        (
            b"",
            b"\xff",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"{}",
            b"\0" * 50,
            f" {SECRET}\n".encode(),
        )
    )
    return drawing.damaged(random, text)


@cache
def _folder() -> Path:
    return Path(_temporary().name)


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jirafe-fuzz-")


def try_out(case: Case) -> None:
    """Load settings, and make the parts that they configure."""
    folder = _folder()
    (folder / "file").write_bytes(case["file"].encode("latin-1"))
    env_file = None
    if case["env_file"] is not None:
        env_file = folder / "env"
        env_file.write_bytes(case["env_file"].encode("latin-1").replace(b"@f", f"{folder}/f".encode()))
    environ = {
        name: value.encode("latin-1").decode("utf-8", "surrogateescape").replace("@f", f"{folder}/f")
        for name, value in case["environ"].items()
    }
    try:
        loaded = settings.load(env_file, environ)
        app.make_codec(loaded)
        app.make_client(loaded)
        cluster = app.make_cluster(loaded)
        if len(loaded.kafka) > _OF_PLAIN:
            # A setting that the library refuses is reported before it is used.
            for properties in (cluster.consumer_properties, cluster.producer_properties):
                cluster.make_producer({**properties, **_ALONE})
        _ = (cluster.longest_silence, cluster.transaction_timeout)
        app.make_backoff(loaded)
        app.make_defaults(loaded)
    except ConsumerError as error:
        said = str(error)
        if not said.strip():
            raise Breach("what is wrong is not said", repr(error)) from None
        if SECRET in said:
            raise Breach("an error tells the access token", said) from None
        try:
            said.encode()
        except UnicodeEncodeError:
            raise Breach("what is wrong can't be written", repr(error)) from None
