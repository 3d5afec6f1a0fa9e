"""A reload logs exactly which settings it applied, and which need a restart."""

import os
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from consumer import app, log
from consumer.settings import GROUPS, TAKEN_IN_PLACE, SettingsSource
from schemas.codec import Codec

VALUES = {
    "JIRAFE_URL": "https://other.example",
    "JIRAFE_STORE_URL": "https://shop.example",
    "CONSUMER_CREATE_TOPICS": "no",
    "CONSUMER_SCHEMA_REGISTRY_URL": "https://registry.example",
    "CONSUMER_SCHEMA_REGISTRY_USER": None,
    "CONSUMER_SCHEMA_REGISTRY_CA": None,
    "CONSUMER_SCHEMA_REGISTRY_CERTIFICATE": None,
    "CONSUMER_SCHEMA_REGISTRY_KEY": None,
    "CONSUMER_HTTP_ADDRESS": "off",
    "CONSUMER_LOG_LEVEL": "error",
    "CONSUMER_SCHEMAS_FOLDER": "/",
    "KAFKA_SASL_PASSWORD": "hush",
    "KAFKA_GROUP_ID": "another",
}
EVERY = [*(prefix + field.upper() for prefix, group in GROUPS.items() for field in group.model_fields), *VALUES]
CODEC = Codec()
NAMES = [name for name in dict.fromkeys(EVERY) if VALUES.get(name, "") is not None]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


class Running:
    def __init__(self, env_file: Path) -> None:
        self._env_file = env_file
        env_file.touch()
        self.source = source = SettingsSource(env_file)
        loaded = source.load()
        self.delivery = app.make_delivery(loaded, CODEC)
        self.cluster = app.make_cluster(loaded)
        self.reconnects = False
        self._reloader = app.Reloader(source, loaded, self.cluster, self.delivery, log.configure("info"))

    def __call__(self, text: str, *, asked: bool = True) -> tuple[bool, list[dict[str, Any]]]:
        self._env_file.write_text(text)
        with capture_logs() as said:
            again, self.reconnects = self._reloader.reload(asked=asked)
        return again, [{name: each[name] for name in each if name != "log_level"} for each in said]


@pytest.fixture
def reloaded(tmp_path: Path) -> Running:
    return Running(tmp_path / "settings.env")


def relink(link: Path, target: Path) -> None:
    """Let a link lead to another file, from one moment to the next, as Kubernetes does."""
    following = link.with_name("next")
    following.symlink_to(target)
    following.replace(link)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_each_setting_is_applied_or_needs_a_restart(name: str, *, asked: bool, reloaded: Running) -> None:
    text = f"{name}={VALUES.get(name, '17')}\n"
    again, said = reloaded(text, asked=asked)
    assert reloaded.reconnects == name.startswith("KAFKA_SASL_")
    if name in TAKEN_IN_PLACE or reloaded.reconnects:
        assert (again, said) == (True, [{"event": "settings_reloaded", "taken": [name]}])
    else:
        assert (again, said) == (asked, [{"event": "settings_need_restart", "changed": [name]}])
    assert "hush" not in str(said)


def test_applied_settings_are_not_applied_again_and_refused_ones_are_logged_again(reloaded: Running) -> None:
    text = "JIRAFE_SITE_ID=1\nCONSUMER_WORKERS=3\n"
    _, said = reloaded(text)
    assert [each["event"] for each in said] == ["settings_reloaded", "settings_need_restart"]
    assert reloaded(text) == (True, [{"event": "settings_need_restart", "changed": ["CONSUMER_WORKERS"]}])
    assert reloaded("JIRAFE_SITE_ID=1\n") == (True, [{"event": "settings_unchanged"}])
    assert reloaded("") == (True, [{"event": "settings_reloaded", "taken": ["JIRAFE_SITE_ID"]}])


def test_a_file_with_the_same_settings_changes_nothing(reloaded: Running) -> None:
    assert reloaded("# a remark\n", asked=False) == (False, [])


def test_refused_settings_are_logged_and_nothing_is_applied(reloaded: Running) -> None:
    again, said = reloaded("CONSUMER_WORKERS=none\nJIRAFE_SITE_ID=1\n")
    assert (again, [each["event"] for each in said]) == (False, ["settings_refused"])


def test_new_clients_use_the_changed_connection_settings(reloaded: Running) -> None:
    text = "KAFKA_BOOTSTRAP_SERVERS=elsewhere:9092\nKAFKA_SASL_USERNAME=me\nKAFKA_GROUP_ID=another\n"
    again, said = reloaded(text, asked=False)
    assert (again, reloaded.reconnects) == (True, True)
    assert said == [
        {"event": "settings_reloaded", "taken": ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SASL_USERNAME"]},
        {"event": "settings_need_restart", "changed": ["KAFKA_GROUP_ID"]},
    ]
    assert (reloaded.cluster.servers, reloaded.cluster.group) == ("elsewhere:9092", "jirafe-consumer")
    reloaded(text)
    assert not reloaded.reconnects


def test_settings_are_refused_if_no_client_can_be_made_with_them(reloaded: Running) -> None:
    text = "KAFKA_SECURITY_PROTOCOL=SSL\nKAFKA_SSL_CA_LOCATION=/nowhere.pem\n"
    again, said = reloaded(text, asked=False)
    assert (again, reloaded.reconnects, [each["event"] for each in said]) == (False, False, ["settings_refused"])
    assert "KAFKA_SSL_CA_LOCATION" in str(said)
    assert "security.protocol" not in reloaded.cluster.properties


def test_a_renewed_certificate_file_is_applied(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    env_file = tmp_path / "settings.env"
    env_file.write_text(f"KAFKA_SECURITY_PROTOCOL=SSL\nKAFKA_SSL_CA_LOCATION={authority}\n")
    running = Running(env_file)
    text = env_file.read_text()
    running(text)
    assert not running.reconnects
    trustme.CA().cert_pem.write_to_path(str(authority))
    again, said = running(text)
    assert (again, running.reconnects) == (True, True)
    assert said == [{"event": "settings_reloaded", "taken": ["KAFKA_SSL_CA_LOCATION"]}]
    running.cluster.describe_topics(["orders"])  # this client stays connected
    authority.write_text("half of a certi")
    for _ in range(2):  # it is still not in use, so another reload must not say that nothing changed
        _, said = running(text)
        assert (running.reconnects, [each["event"] for each in said]) == (False, ["settings_refused"])
    running.cluster.describe_topics(["orders"])
    trustme.CA().cert_pem.write_to_path(str(authority))
    running(text)
    assert running.reconnects


@pytest.mark.parametrize(
    "name", ["JIRAFE_ACCESS_TOKEN", "KAFKA_SASL_PASSWORD", "CONSUMER_SCHEMA_REGISTRY_PASSWORD"]
)
def test_a_changed_secret_file_counts_as_a_changed_setting(name: str, tmp_path: Path) -> None:
    """As in Kubernetes: from one moment to the next, the link leads to another file."""
    old, new, link = (tmp_path / part for part in ("old", "new", "link"))
    old.write_text("hush\n")
    new.write_text("hush hush".replace(" ", "-"))
    link.symlink_to(old)
    env_file = tmp_path / "settings.env"
    env_file.write_text(text := f"{name}_FILE={link}\n")
    running = Running(env_file)
    relink(link, new)
    again, said = running(text, asked=False)
    if name.startswith("CONSUMER_"):
        assert (again, said) == (False, [{"event": "settings_need_restart", "changed": [name]}])
    else:
        assert (again, said) == (True, [{"event": "settings_reloaded", "taken": [name]}])
    assert running.reconnects == name.startswith("KAFKA_")


def test_a_file_of_the_same_size_and_time_counts_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems that give all files of a release the same time."""
    old, new, link = (tmp_path / part for part in ("old", "new", "link"))
    for file in (old, new):
        trustme.CA().cert_pem.write_to_path(str(file))
    old.write_text(old.read_text().ljust(4000))
    new.write_text(new.read_text().ljust(4000))
    os.utime(old, (1, 1))
    while new.stat().st_ctime_ns <= old.stat().st_ctime_ns:  # the clock of files is coarse
        os.utime(new, (1, 1))
    os.utime(new, (1, 1))
    link.symlink_to(old)
    env_file = tmp_path / "settings.env"
    env_file.write_text(text := f"KAFKA_SECURITY_PROTOCOL=SSL\nKAFKA_SSL_CA_LOCATION={link}\n")
    running = Running(env_file)
    relink(link, new)
    assert looks_again(running, monkeypatch)
    _, said = running(text)
    assert said == [{"event": "settings_reloaded", "taken": ["KAFKA_SSL_CA_LOCATION"]}]


def looks_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a second later it finds something to read again."""
    monkeypatch.setattr(running.source, "_look_at", 0.0)
    return running.source.has_changed()


@pytest.mark.parametrize("name", ["JIRAFE_ACCESS_TOKEN_FILE", "KAFKA_SSL_CA_LOCATION"])
def test_a_file_that_disappears_is_logged_once_and_read_when_it_is_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, env_file = tmp_path / "file", tmp_path / "settings.env"
    trustme.CA().cert_pem.write_to_path(str(file))
    one_line = file.read_text().replace("\n", "").replace(" ", "-")
    if name.startswith("JIRAFE_"):
        file.write_text(one_line)
    env_file.write_text(text := f"{name}={file}\nKAFKA_SECURITY_PROTOCOL=SSL\n")
    running = Running(env_file)
    assert not looks_again(running, monkeypatch)
    content = file.read_text()
    file.unlink()
    assert looks_again(running, monkeypatch)
    _, said = running(text)
    assert said == [{"event": "settings_refused", "faults": [f"{name}: {file} does not exist."]}]
    assert not looks_again(running, monkeypatch), "it would be said each second"
    if name.startswith("JIRAFE_"):
        file.write_text(f"{content}-another")
    else:
        trustme.CA().cert_pem.write_to_path(str(file))
    assert looks_again(running, monkeypatch)
    _, said = running(text)
    assert said == [{"event": "settings_reloaded", "taken": [name.removesuffix("_FILE")]}]


def test_a_file_that_is_created_later_is_read_once_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    running = Running(tmp_path / "settings.env")
    text = f"JIRAFE_ACCESS_TOKEN_FILE={file}\n"
    _, said = running(text)
    assert [each["event"] for each in said] == ["settings_refused"]
    assert not looks_again(running, monkeypatch)
    file.write_text("hush")
    assert looks_again(running, monkeypatch)
    _, said = running(text)
    assert said == [{"event": "settings_reloaded", "taken": ["JIRAFE_ACCESS_TOKEN"]}]
