"""The Kubernetes manifests and the systemd unit, as far as they can be checked without a cluster or systemd."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from dotenv import dotenv_values

from consumer import settings
from consumer.cli.main import cli

ROOT = Path(__file__).parents[2]
BASE, KEDA = ROOT / "ops/kubernetes/base", ROOT / "ops/kubernetes/keda"
UNIT = ROOT / "ops/systemd/jirafe-consumer@.service"
SECRETS = "/run/secrets/jirafe-consumer/"
RELEASES = ("1.29", "1.37")


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        if name.endswith(".yaml"):
            yield from yaml.safe_load_all((folder / name).read_text())


OBJECTS = {document["kind"]: document for document in documents(BASE)}
STATEFUL_SET = OBJECTS["StatefulSet"]["spec"]
POD = STATEFUL_SET["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = STATEFUL_SET["template"]["metadata"]["labels"]
SCALING = {document["kind"]: document for document in documents(KEDA)}
GIVEN = {name: value or "" for name, value in dotenv_values(BASE / "settings.env").items()}


def keys() -> set[str]:
    """Give the keys that the secret must have: the files that the settings name."""
    return {value.removeprefix(SECRETS) for value in GIVEN.values() if value.startswith(SECRETS)}


@pytest.fixture
def loaded(tmp_path: Path) -> settings.Settings:
    for key in keys():
        (tmp_path / key).write_text("hush")
    member = {"KAFKA_GROUP_INSTANCE_ID": "jirafe-consumer-0"}
    given = {name: value.replace(SECRETS, f"{tmp_path}/") for name, value in GIVEN.items()}
    return settings.load(None, {**given, **member})


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", OBJECTS)
def test_kubernetes_accepts_the_manifests(kind: str, release: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], release, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    wrong = {**OBJECTS["PodDisruptionBudget"], "spec": {"maxUnavailble": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


def test_the_kustomizations_name_exactly_the_files_of_their_folders() -> None:
    for folder in (BASE, KEDA):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {name for name in kustomization["resources"] if name.endswith(".yaml")}
        named |= {name for each in kustomization.get("configMapGenerator", []) for name in each["envs"]}
        assert named | {"kustomization.yaml"} == {path.name for path in folder.iterdir()}


def test_all_objects_select_the_pods() -> None:
    assert STATEFUL_SET["selector"]["matchLabels"] == LABELS
    assert OBJECTS["Service"]["spec"]["selector"] == LABELS
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    assert STATEFUL_SET["serviceName"] == OBJECTS["Service"]["metadata"]["name"]


def test_the_settings_are_valid_and_each_pod_is_a_static_member(loaded: settings.Settings) -> None:
    assert loaded.access_token == loaded.kafka["sasl.password"] == "hush"
    (name,) = CONTAINER["env"]
    assert name == {
        "name": "KAFKA_GROUP_INSTANCE_ID",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
    }
    assert loaded.instance == "jirafe-consumer-0"
    (generated,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"]
    assert CONTAINER["envFrom"] == [{"configMapRef": {"name": generated["name"]}}]


def test_secrets_are_mounted_as_files_that_can_be_renewed() -> None:
    assert not {name for name in GIVEN if re.search(r"(TOKEN|PASSWORD|SECRET)$", name)}
    (mount,) = CONTAINER["volumeMounts"]
    assert (mount["mountPath"] + "/", mount["readOnly"], "subPath" in mount) == (SECRETS, True, False)
    (volume,) = POD["volumes"]
    assert volume["name"] == mount["name"]
    assert not volume["secret"]["defaultMode"] & 0o007, "others can't read it"


def test_probes_request_pages_that_a_member_serves(loaded: settings.Settings) -> None:
    (port,) = CONTAINER["ports"]
    assert loaded.stream.http_address == f"0.0.0.0:{port['containerPort']}"
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    # A restart does not help in an outage of Kafka, so it makes a member not ready, but leaves it healthy.
    assert asked == {
        "liveness": {"path": "/healthz", "port": port["name"]},
        "readiness": {"path": "/readyz", "port": port["name"]},
    }
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert OBJECTS["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": port["name"]}]


def test_in_an_outage_members_start_and_nodes_can_be_drained() -> None:
    assert STATEFUL_SET["podManagementPolicy"] == "Parallel"
    assert OBJECTS["PodDisruptionBudget"]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert OBJECTS["Service"]["spec"]["publishNotReadyAddresses"]


def test_a_member_has_the_time_to_stop(loaded: settings.Settings) -> None:
    needed = loaded.stream.grace_time + loaded.commit_timeout
    assert POD["terminationGracePeriodSeconds"] >= needed
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), flags=re.MULTILINE)
    assert int(limit) >= needed


def test_a_member_has_the_memory_that_it_may_need(loaded: settings.Settings) -> None:
    needs = r"A member needs at most (\d+) MiB, plus (\d+) MiB for each partition .*?, plus (\d+) MiB for each of"
    (found,) = re.findall(needs, (ROOT / "docs/guarantees.md").read_text(), flags=re.DOTALL)
    base, of_partition, of_worker = map(int, found)
    (partitions,) = re.findall(
        r"enough for a member with (\d+) partitions", (ROOT / "docs/kubernetes.md").read_text()
    )
    needed = base + int(partitions) * of_partition + loaded.stream.workers * of_worker
    limit = 1024
    assert needed <= limit
    assert CONTAINER["resources"]["limits"] == {"memory": "1Gi"}
    assert "\nMemoryMax=1G\n" in UNIT.read_text()


def test_a_pod_has_no_right_that_it_does_not_need() -> None:
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"]
    user = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert user == [(str(pod["runAsUser"]), str(pod["runAsGroup"]))]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False


def test_the_network_policy_allows_all_configured_connections(loaded: settings.Settings) -> None:
    rules = OBJECTS["NetworkPolicy"]["spec"]["egress"]
    open_ports = {port["port"] for rule in rules for port in rule["ports"]}
    servers = loaded.kafka["bootstrap.servers"].split(",")
    assert open_ports == {53, 443, *(int(server.rpartition(":")[2]) for server in servers)}
    assert loaded.api.url.startswith("https://")


def test_keda_uses_the_kafka_and_the_group_of_the_members(loaded: settings.Settings) -> None:
    """KEDA's own schemas are not available here, so this compares with the fields in its documentation (2.17)."""
    scaled, authentication = SCALING["ScaledObject"]["spec"], SCALING["TriggerAuthentication"]
    assert {each["apiVersion"] for each in SCALING.values()} == {"keda.sh/v1alpha1"}
    assert scaled.keys() <= {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "advanced", "triggers"
    }  # fmt: skip
    assert scaled["scaleTargetRef"] == {"kind": "StatefulSet", "name": OBJECTS["StatefulSet"]["metadata"]["name"]}
    (trigger,) = scaled["triggers"]
    assert trigger.keys() == {"type", "metadata", "authenticationRef"}
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    asked = trigger["metadata"]
    assert asked.keys() == {
        "bootstrapServers", "consumerGroup", "sasl", "tls", "lagThreshold", "offsetResetPolicy",
        "excludePersistentLag",
    }  # fmt: skip
    assert all(isinstance(value, str) for value in asked.values()), "its metadata are texts"
    assert asked["bootstrapServers"] == loaded.kafka["bootstrap.servers"]
    assert asked["consumerGroup"] == loaded.kafka["group.id"]
    assert asked["sasl"] == loaded.kafka["sasl.mechanism"].lower().replace("-sha-", "_sha")
    assert loaded.kafka["security.protocol"] == "SASL_SSL"
    assert asked["tls"] == "enable"
    given = authentication["spec"]["secretTargetRef"]
    assert {each["parameter"]: each["key"] for each in given} == {
        "username": "kafka-user", "password": "kafka-password", "ca": "kafka-ca.pem"
    }  # fmt: skip
    assert {each["key"] for each in given} - keys() == {"kafka-user"}
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    as_kubernetes_knows_it = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "spec": {"scaleTargetRef": {"kind": "StatefulSet", "name": "x"}, "maxReplicas": 2, "behavior": behavior},
    }
    kubernetes_validate.validate(as_kubernetes_knows_it, RELEASES[-1], strict=True)


def test_the_page_names_every_key_of_the_secret() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    named = set(re.findall(r"--from-(?:file|literal)=([\w.-]+)", page))
    assert named == {*keys(), "kafka-user"}


def test_the_unit_runs_our_command() -> None:
    (line,) = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), flags=re.MULTILINE)
    program, *arguments = line.split()
    assert Path(program).name == "jirafe-consumer"
    context = cli.make_context("jirafe-consumer", [*arguments])
    assert context.params["env_file"] == Path("/etc/jirafe-consumer/settings.env")
    assert arguments[2:] == ["run"]
    (line,) = re.findall(r"^Environment=(.+)$", UNIT.read_text(), flags=re.MULTILINE)
    given = dict(pair.split("=") for pair in line.replace("%i", "8000").replace("%H", "host").split())
    loaded = settings.load(None, given)
    assert (loaded.instance, loaded.stream.http_address) == ("host-8000", "127.0.0.1:8000")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as systemd would read it, with a program that exists."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze")
    file = tmp_path / "jirafe-consumer@8000.service"
    file.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    return file


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("systemd-analyze") or "", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = analyzed("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("RestartSec=", "RestartSecs="))
    assert "Unknown key" in analyzed("verify", "--man=no", str(unit)).stderr


def test_the_exposure_of_the_unit_is_low(unit: Path) -> None:
    """At most 2.0 of 10. Most of it is the network, which a member needs."""
    done = analyzed("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    assert done.returncode == 0, done.stdout


def test_the_command_of_the_container_exists() -> None:
    names = CONTAINER["args"]
    assert [cli.get_command(click.Context(cli), name) is not None for name in names] == [True]
