"""The images and the compose file, as far as they can be checked without Docker."""

import ast
import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from consumer import settings
from consumer.cli.main import cli
from consumer.demo.processes import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
VERSION = r"[\w./-]+:v?\d+(\.\d+){2}[\w.-]*"
PINNED = re.compile(VERSION + "@sha256:[0-9a-f]{64}")


def environment(service: str) -> dict[str, str]:
    return {name: str(value) for name, value in SERVICES[service].get("environment", {}).items()}


def has_health_check(service: str) -> bool:
    """Return whether a service has a health check: in the compose file, or in the image `consumer`."""
    here = SERVICES[service].get("healthcheck", {})
    return "test" in here or SERVICES[service].get("build", {}).get("target") == "consumer"


def pins(lock: str) -> dict[str, list[str]]:
    """Give the packages of a lock file, each with its version and hashes."""
    pinned = re.split(r"\n(?=\w)", (ROOT / lock).read_text())
    return {pin.partition("==")[0]: re.findall(r"==[\w.]+(?= )|sha256:\w+", pin) for pin in pinned}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def test_every_image_is_pinned() -> None:
    for name, service in SERVICES.items():
        if name == "registry":  # by its version alone
            assert re.fullmatch(VERSION, service["image"])
        else:
            assert name in OURS or PINNED.fullmatch(service["image"]), name
    (base,) = re.findall(r"^ARG BASE=(.+)", DOCKERFILE, flags=re.MULTILINE)
    assert PINNED.fullmatch(base)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)) <= {"${BASE}", *stages()}


def stages() -> list[str]:
    return re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)


def test_the_default_build_target_is_for_production() -> None:
    assert stages()[-1] == "consumer"
    assert {service["build"]["target"] for service in OURS.values()} <= set(stages())


def test_every_service_has_a_health_check() -> None:
    assert "\nHEALTHCHECK " in DOCKERFILE.partition("AS consumer\n")[2]
    without = [name for name in SERVICES if not has_health_check(name)]
    assert without == ["shop"], "it serves nothing that could be asked"


class Healthy(BaseHTTPRequestHandler):
    """Answers as a healthy member does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("address", ["0.0.0.0:{}", "127.0.0.1:{}", "localhost:{}", "{}", ":{}"])
def test_the_health_check_of_the_image_asks_the_member_and_no_proxy(address: str) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    _, *arguments = json.loads(command.replace("\\\n", ""))

    def status(at: str) -> int:
        environment = {"CONSUMER_HTTP_ADDRESS": at, "HTTP_PROXY": f"http://127.0.0.1:{free_port()}"}
        return subprocess.run(
            [sys.executable, *arguments], env=environment, check=False, capture_output=True, timeout=60
        ).returncode

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert status(address.format(server.server_port)) == 0
        finally:
            server.shutdown()
            thread.join()
    assert status(address.format(free_port())) == 1
    assert status("off") == 0, "nothing answers, and nothing should"


def test_services_only_wait_for_services_with_a_health_check() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert has_health_check(name)


@pytest.mark.parametrize("service", ["consumer", "shop"])
def test_the_settings_are_valid_and_name_services(service: str) -> None:
    given = environment(service)
    loaded = settings.load(None, given)
    assert f"INTERNAL://{loaded.kafka['bootstrap.servers']}" in environment("kafka")["KAFKA_ADVERTISED_LISTENERS"]
    awaited = SERVICES[service]["depends_on"]
    assert {host for value in given.values() for host in re.findall(r"^https?://([\w-]+):", value)} < set(awaited)
    assert "kafka" in awaited


@pytest.mark.parametrize("service", OURS)
def test_the_commands_of_the_services_are_valid(service: str) -> None:
    name, *arguments = SERVICES[service].get("command", ["run"])
    command = cli.get_command(click.Context(cli), name)
    assert command
    command.make_context(name, arguments)  # raises where an argument is wrong


def test_the_sandbox_and_the_member_have_the_same_site_and_token() -> None:
    command = SERVICES["sandbox"]["command"]
    given = dict(pairwise(command))
    member = environment("consumer")
    assert (member["JIRAFE_SITE_ID"], member["JIRAFE_ACCESS_TOKEN"]) == (given["--site"], given["--token"])


def test_ports_are_only_published_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_mounted_files_exist() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert mounts
    for source, _, mode in mounts:
        assert (ROOT / source).is_dir()
        assert mode == "ro"


def test_prometheus_finds_the_members_and_grafana_finds_prometheus() -> None:
    scraped = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (found,) = scraped[0]["dns_sd_configs"]
    assert found["names"] == ["consumer"]
    assert environment("consumer")["CONSUMER_HTTP_ADDRESS"] == f"0.0.0.0:{found['port']}"
    folder = ROOT / "ops/grafana" / Path(environment("grafana")["GF_PATHS_PROVISIONING"]).relative_to("/ops")
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards/dashboards.yml").read_text())["providers"]
    assert Path(provider["options"]["path"]).relative_to("/ops") == Path("dashboards")
    assert (ROOT / "ops/grafana/dashboards/jirafe-consumer.json").is_file()
    rules = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())["rule_files"]
    assert [(ROOT / "ops/prometheus" / Path(name).name).is_file() for name in rules] == [True]


def test_every_library_that_is_imported_is_declared() -> None:
    """One that only comes with another may be too old."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = names([*project["dependencies"], *extras["demo"], *extras["otel"]])
    imported = {
        name.partition(".")[0]
        for folder in ("consumer", "jirafe", "schemas", "transport")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
        )
    }
    distributions = packages_distributions()
    for name in (
        imported - sys.stdlib_module_names - {"consumer", "jirafe", "schemas", "transport", "opentelemetry"}
    ):
        assert {each.lower().replace("_", "-") for each in distributions[name]} & declared, name


def test_the_production_lock_has_only_what_the_service_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run, whole = pins("requirements.run.lock"), pins("requirements.lock")
    assert run.items() <= whole.items()
    assert names(project["dependencies"]) <= run.keys()
    assert not names(project["optional-dependencies"]["demo"]) & run.keys()
    assert all(version.startswith("==") and hashes for version, *hashes in run.values())
