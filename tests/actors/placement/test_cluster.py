"""What is detected of a machine, without its GPUs, or described of a cluster."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.placement import cluster
from actors.placement.cluster import Cluster, ClusterError, Node, described, node_of

SCRIPT = """
import torch

torch.cuda.device_count = lambda: 1
from actors.placement.cluster import local_cluster

print("GPUs:", local_cluster().nodes[0].gpus)
"""


def test_a_script_that_is_not_ready_to_be_imported_again_learns_of_gpus(tmp_path: Path) -> None:
    """As in the pages for users: statements at the top level, without a guard for child processes."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=hidden)
    # the process that is asked has no patch and sees no GPU
    assert (done.returncode, done.stdout) == (0, "GPUs: 0\n"), done.stderr


def test_a_cluster_is_described_in_a_line() -> None:
    assert described("0cpu:8gib, 2x96cpu:1024gib:8gpu:80gib").nodes == (
        Node("node 0", 0, 8),
        Node("node 1", 96, 1024, 8, 80),
        Node("node 2", 96, 1024, 8, 80),
    )
    for bad in ("", "4x8xH100", "0x4cpu:8gib", "4cpu", "4cpu:8gib:2gpu", "4cpu:8gib,,"):
        with pytest.raises(ClusterError, match=r"is not \[NODESx\]CPUScpu:MEMORYgib"):
            described(bad)


def test_what_ray_says_of_a_node() -> None:
    said = {
        "NodeID": "ab12",
        "NodeManagerAddress": "10.0.0.7",
        "Resources": {"CPU": 96.0, "GPU": 8.0, "memory": 2.0**40, "node:10.0.0.7": 1.0},
    }
    assert node_of(said, [(80.0, True)] * 7 + [(79.5, True)]) == Node("10.0.0.7", 96.0, 1024.0, 8, 79.5, "ab12")
    older = Node("10.0.0.7", 96.0, 1024.0, 8, 16.0, "ab12", bfloat16=False)
    assert node_of(said, [(80.0, True)] * 7 + [(16.0, False)]) == older
    assert Cluster((older, Node("new", 8.0, 64.0, 1, 80.0))).without_bfloat16 == ("10.0.0.7",)
    head = {"NodeID": "cd", "NodeManagerAddress": "10.0.0.1", "Resources": {"memory": 2.0**35}}
    assert node_of(head, []) == Node("10.0.0.1", 0.0, 32.0, 0, 0.0, "cd")


@pytest.mark.parametrize(("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 1), True)])
def test_what_a_gpu_says_of_itself(capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(total_memory=2**34, major=capability[0], minor=capability[1])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: said)
    assert cluster.gpus_here() == [(16.0, native)] * 2


def test_experiments_side_by_side_have_whole_gpus() -> None:
    there = described("0cpu:32gib,64cpu:512gib:8gpu:80gib,48cpu:256gib:4gpu:80gib")
    share = there.share(3, cpus_aside=0.01)
    assert [(node.gpus, node.memory_gib) for node in share.nodes] == [(0, 32 / 3), (2, 512 / 3), (1, 256 / 3)]
    assert [node.cpus for node in share.nodes] == pytest.approx([0, 64 / 3 - 0.01, 16])
