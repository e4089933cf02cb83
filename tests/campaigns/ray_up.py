"""``ray up`` on machines that SSH reaches: ``python -m tests.campaigns.ray_up --ips A,B,C --ssh-user U --ssh-key K``.

Starts a head without CPUs on the first address by Ray's local provider, submits the quick start with two engines and
two training workers, and so makes the autoscaler bring up the other nodes, from none, and let them go afterwards; then
``ray down``. The records must be those of a run on one machine. As with ``cluster.yaml``, login shells there must find
the packages' ``python`` and ``ray``, and ``ray get-auth-token --generate`` must have made a token. The addresses may
all be this machine's. ``ray down`` ends every Ray process of a machine: nothing else of Ray may run there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.util import prepare_config

from tests.campaigns.cluster import nodes_of, on_one_machine
from tests.support.loops import records_of

SETTINGS = ["loop.rounds=2", "generation.replicas=2", "training.workers=2", "training.worker_lifetime=run"]
GROWS_TO = "placement.cluster={nodes}x1cpu:8gib"
PORT, DASHBOARD = 6379, 8265
START = "RAY_AUTH_MODE=token ray start"
LIMIT_S = 900.0
IDLE_MINUTES = 1
GOES_S = 60.0 * IDLE_MINUTES + 120.0


def description(ips: list[str], user: str, key: Path) -> dict[str, Any]:
    """The cluster file: `cluster.yaml` with the local provider and Ray's own defaults."""
    config: dict[str, Any] = prepare_config(
        {
            "cluster_name": "scpl-local",
            "min_workers": 0,
            "max_workers": len(ips) - 1,
            "idle_timeout_minutes": IDLE_MINUTES,
            "provider": {"type": "local", "head_ip": ips[0], "worker_ips": ips[1:]},
            "auth": {"ssh_user": user, "ssh_private_key": str(key)},
            "head_start_ray_commands": [
                f"{START} --head --port={PORT} --num-cpus=0 --node-ip-address={ips[0]} "
                f"--dashboard-port={DASHBOARD} --autoscaling-config=~/ray_bootstrap_config.yaml"
            ],
            "worker_start_ray_commands": [
                # the third word is the address by which SSH came in
                f"{START} --address={ips[0]}:{PORT} --num-cpus=1 "
                "--node-ip-address=$(echo $SSH_CONNECTION | cut -d' ' -f3)"
            ],
        }
    )
    # Ray learns the resources of a local node only when it is running; to scale up from none, it must know them before
    config["available_node_types"]["local.cluster.node"]["resources"] = {"CPU": 1}
    return config


def ray(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The `ray` command."""
    command = [str(Path(sys.executable).parent / "ray"), *arguments]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    return subprocess.run(command, text=True, capture_output=True, env=environment, timeout=LIMIT_S)


def nodes_alive() -> int:
    """The number of nodes of the cluster that are alive, including the head."""
    listed = ray(
        "list", "nodes", "--address", f"http://127.0.0.1:{DASHBOARD}", "--filter", "state=ALIVE", "--format=json"
    )
    return len(json.loads(listed.stdout))


def quick_start(run_dir: Path, settings: list[str]) -> bool:
    """Submit it; returns whether it succeeded with its engines and training workers on separate nodes."""
    print("nodes before:", nodes_alive())
    began = time.monotonic()
    command = ["python", "-m", "jobs.driver.run", *settings, "--run-dir", str(run_dir)]
    job = ray("job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD}", "--working-dir", ".", "--", *command)
    print(job.stdout[-4000:], job.stderr[-2000:])
    print(f"quick start: exit code {job.returncode} after {time.monotonic() - began:.0f} s")
    print("nodes after:", nodes_alive())
    if job.returncode:
        return False
    spread = nodes_of(run_dir)
    for phase, roles in spread.items():
        print(phase, {role: sorted(node[:6] for node in on) for role, on in roles.items()})
    return all(len(on) == 2 for roles in spread.values() for role, on in roles.items() if role != "scorer")


def let_go() -> bool:
    """Whether the nodes that a run no longer needs are removed."""
    began = time.monotonic()
    while (alive := nodes_alive()) > 1 and time.monotonic() - began < GOES_S:
        time.sleep(5)
    print(f"nodes {time.monotonic() - began:.0f} s later: {alive}")
    return alive == 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ips", required=True)
    parser.add_argument("--ssh-user", required=True)
    parser.add_argument("--ssh-key", type=Path, required=True)
    asked = parser.parse_args()
    ips = asked.ips.split(",")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "cluster.yaml"
        file.write_text(yaml.safe_dump(description(ips, asked.ssh_user, asked.ssh_key)))
        on_one_machine(Path(name) / "one", SETTINGS)
        try:
            began = time.monotonic()
            up = ray("up", "-y", str(file))
            print(f"ray up: exit code {up.returncode} after {time.monotonic() - began:.0f} s")
            if up.returncode:
                print(up.stdout[-3000:], up.stderr[-3000:])
                return 1
            ended = quick_start(Path(name) / "run", [*SETTINGS, GROWS_TO.format(nodes=len(ips) - 1)])
            identical = ended and records_of(Path(name) / "run") == records_of(Path(name) / "one")
            print("records are those of one machine:", identical)
            gone = let_go()
        finally:
            down = ray("down", "-y", str(file))
            print(f"ray down: exit code {down.returncode}")
        time.sleep(5)
        left = [p.info["name"] for p in psutil.process_iter(["name"]) if p.info["name"].startswith(("ray", "gcs_"))]
        print("processes left:", left or "none")
        return 0 if identical and gone and down.returncode == 0 and not left else 1


if __name__ == "__main__":
    sys.exit(main())
