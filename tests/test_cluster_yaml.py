"""cluster.yaml, by the checks that ``ray up`` makes before it starts anything, and what would be uploaded."""

import copy
import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray._private.runtime_env.packaging import _get_ignore_file
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.placement.cluster import described
from scpl_ray import __version__

ROOT = Path(__file__).parents[1]
NOT_NEEDED = [
    ".git",
    ".venv",
    "runs",
    "studies",
    "build",
    "dist",
    "scpl_ray.egg-info",
    ".mypy_cache",
    ".hypothesis",
    "docs",
]
"""Names of what is made in a checkout, or kept there for readers, and may be large."""


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == 4
    assert {name: (t["min_workers"], t["max_workers"]) for name, t in prepared["available_node_types"].items()} == {
        "head": (0, 0),
        "gpu_worker": (0, 4),
    }
    config["available_node_types"]["head"]["min_worker"] = 1
    with pytest.raises(ValidationError, match="min_worker"):
        validate_config(prepare_config(config))


def test_nothing_runs_on_the_head_and_both_have_an_image_of_ones_own(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["head_node_type"] == "head" and types["head"]["resources"] == {"CPU": 0}
    # ray up would take an image of Ubuntu 18.04 where none is named
    assert {each["node_config"]["ImageId"] for each in types.values()} == {"YOUR_AMI"}


def test_nodes_install_this_checkout_with_its_pins(config: dict[str, Any]) -> None:
    folder, token = config["file_mounts"]
    assert config["file_mounts"][folder] == "."
    # Ray looks for the token there
    assert token == f"{Path(folder).parent}/.ray/auth_token" and config["file_mounts"][token] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    (install,) = [command for command in config["setup_commands"] if "pip install" in command]
    assert install.endswith(f"pip install --quiet --no-deps -r {folder}/requirements-gpu.lock -e {folder}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Triton needs a C compiler and Python.h
    assert all(any(need in command for command in config["setup_commands"]) for need in (" gcc ", "python3.12-dev"))
    # the interpreter of the nodes is one that the package takes
    python = re.findall(r"python(3\.\d+) -m venv", " ".join(config["setup_commands"]))
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    assert len(python) == 1 and int(low) <= int(python[0].partition(".")[2]) < int(high)
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "ray start" in command or command == "ray stop"


def test_the_image_and_its_job_are_of_this_version(config: dict[str, Any]) -> None:
    job = yaml.safe_load((ROOT / "kuberay.yaml").read_text())
    ray = job["spec"]["rayClusterSpec"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ray[default,train,tune]=={ray['rayVersion']}" in project["dependencies"]
    images = {
        c["image"]
        for g in (ray["headGroupSpec"], *ray["workerGroupSpecs"])
        for c in g["template"]["spec"]["containers"]
    }
    assert images == {f"YOUR_REGISTRY/scpl-ray:{__version__}"}
    assert ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.loop"] and words[4] == "--run-dir"
    image = (ROOT / "Dockerfile").read_text()
    (packages,) = re.findall(r"apt-get install .*?&&", image, re.DOTALL)
    assert {"gcc", "python3.12-dev", "python3.12-venv"} <= set(packages.split())
    assert "pip install --quiet --no-deps -r requirements-gpu.lock" in image
    assert set((ROOT / ".dockerignore").read_text().split()) >= set(config["rsync_exclude"])


def test_kubernetes_adds_workers_where_there_may_be_more() -> None:
    cluster = yaml.safe_load((ROOT / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    growing = [group for group in cluster["workerGroupSpecs"] if group["maxReplicas"] > group["replicas"]]
    assert growing and cluster.get("enableInTreeAutoscaling") is True
    # what the file says a run should ask for is what it can get
    (said,) = re.findall(r"placement\.cluster=(\S+?)[,;. \n]", (ROOT / "kuberay.yaml").read_text())
    nodes = described(said).nodes
    (group,) = growing
    (container,) = group["template"]["spec"]["containers"]
    most = container["resources"]["limits"]
    assert len(nodes) == group["maxReplicas"]
    for node in nodes:
        assert (f"{node.cpus:g}", str(node.gpus)) == (most["cpu"], most["nvidia.com/gpu"])
        assert node.memory_gib <= int(most["memory"].removesuffix("Gi"))


def test_what_no_node_needs_is_not_uploaded(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    ignored = _get_ignore_file(tmp_path, ".rayignore")
    assert ignored is not None
    for name in NOT_NEEDED:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in config["rsync_exclude"]), name
        (tmp_path / name).mkdir()
        assert ignored(tmp_path / name), name
    for name in ("scpl_ray", "actors", "jobs", "README.md", "pyproject.toml"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in config["rsync_exclude"]), name
        assert not ignored(tmp_path / name), name
    kept = [p for p in ROOT.iterdir() if not any(fnmatch.fnmatch(p.name, x) for x in config["rsync_exclude"])]
    files = [
        f for p in kept for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file() and "__pycache__" not in f.parts
    ]
    assert sum(f.stat().st_size for f in files) < 10 * 2**20
