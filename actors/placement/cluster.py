"""What a machine or cluster has: nodes with CPUs, GPUs and memory; either detected, or described for a plan."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from actors.placement import limits
from scpl_ray.models.precision import CAPABILITY

GIB = 2**30
PROBE_S = 300.0
"""Longest wait for a node to say what GPUs it has; a worker process must start there."""
DESCRIBED = re.compile(
    r"(?:(?P<nodes>\d+)x)?(?P<cpus>\d+)cpu:(?P<memory>\d+)gib(?::(?P<gpus>\d+)gpu:(?P<gpu_memory>\d+)gib)?"
)


class ClusterError(ValueError):
    """A cluster's description cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One machine."""

    name: str
    """A name for people: an address, or a number."""
    cpus: float
    memory_gib: float
    """Host memory; if Ray runs, without what Ray keeps for its objects."""
    gpus: int = 0
    gpu_memory_gib: float = 0.0
    """Memory of each GPU."""
    id: str = ""
    """Ray's id of the node; empty if Ray does not run, as in a plan."""
    bfloat16: bool = True
    """Whether all its GPUs multiply bfloat16, as those of a description do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """One machine, or several."""

    nodes: tuple[Node, ...]
    connected: bool = False
    """Whether a Ray that was there before has these nodes; it may be able to start more."""

    @property
    def cpus(self) -> float:
        """Number of CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """Number of GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def without_bfloat16(self) -> tuple[str, ...]:
        """Names of the nodes with GPUs that do not multiply bfloat16."""
        return tuple(node.name for node in self.nodes if node.gpus and not node.bfloat16)

    def started(self, id_: str) -> Cluster:
        """The same single machine, once Ray runs there and has given it this id."""
        (node,) = self.nodes
        return Cluster((dataclasses.replace(node, id=id_),))

    def share(self, count: int, *, cpus_aside: float = 0.0) -> Cluster:
        """What each of ``count`` concurrent experiments has: an equal part of every node, in whole GPUs.

        Args:
            count: number of experiments.
            cpus_aside: CPUs that each experiment needs in addition, on one node.
        """
        nodes = [
            dataclasses.replace(
                node, cpus=node.cpus / count, gpus=node.gpus // count, memory_gib=node.memory_gib / count
            )
            for node in self.nodes
        ]
        roomiest = max(range(len(nodes)), key=lambda i: nodes[i].cpus)
        nodes[roomiest] = dataclasses.replace(nodes[roomiest], cpus=nodes[roomiest].cpus - cpus_aside)
        return dataclasses.replace(self, nodes=tuple(nodes))


def described(text: str) -> Cluster:
    """The cluster of a description like ``8cpu:32gib,4x96cpu:1024gib:8gpu:80gib``.

    Node types are separated by commas, each ``[NODESx]CPUScpu:MEMORYgib[:GPUSgpu:MEMORYgib]``: the first memory is the
    host's, the second that of each GPU.

    Raises:
        ClusterError: the text has another form.
    """
    nodes: list[Node] = []
    for part in text.split(","):
        found = DESCRIBED.fullmatch(part.strip())
        if found is None or found["nodes"] == "0":
            raise ClusterError(
                f"cluster {text!r}: {part!r} is not [NODESx]CPUScpu:MEMORYgib[:GPUSgpu:MEMORYgib], for example "
                "4x96cpu:1024gib:8gpu:80gib, four nodes with 96 CPUs, 1024 GiB and 8 GPUs of 80 GiB each"
            )
        for _ in range(int(found["nodes"] or 1)):
            gpus = int(found["gpus"] or 0)
            gpu_memory = float(found["gpu_memory"] or 0)
            nodes.append(Node(f"node {len(nodes)}", float(found["cpus"]), float(found["memory"]), gpus, gpu_memory))
    return Cluster(tuple(nodes))


def local_cluster() -> Cluster:
    """This machine: the CPUs and memory that this process may use, and all GPUs that are visible to it."""
    import torch

    gpus: list[tuple[float, bool]] = []
    if torch.cuda.device_count():
        # A process that has queried a GPU holds memory on it from then on, so another process does it. It does not
        # import the user's script again, which need not be ready for that.
        asked = f"import json; from {__name__} import gpus_here; print(json.dumps(gpus_here()))"
        told = subprocess.run(
            [sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True, check=True, timeout=PROBE_S
        )
        gpus = json.loads(told.stdout.splitlines()[-1])
    memory, bfloat16 = _least(gpus)
    return Cluster((Node("this machine", limits.cpus(), limits.memory_gib(), len(gpus), memory, bfloat16=bfloat16),))


def ray_cluster() -> Cluster:
    """The cluster that Ray is connected to, with nodes in the order of their addresses.

    Raises:
        ray.exceptions.GetTimeoutError: a node with GPUs did not say what they are in time.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [facts for facts in ray.nodes() if facts["Alive"]]
    alive.sort(key=lambda facts: (facts["NodeManagerAddress"], facts["NodeID"]))
    asked: dict[str, Any] = {}
    for facts in alive:
        if facts["Resources"].get("GPU"):
            place = NodeAffinitySchedulingStrategy(facts["NodeID"], soft=False)
            # The process ends after one call, which frees the memory that it holds on the GPUs.
            probe = ray.remote(num_cpus=0, max_calls=1, scheduling_strategy=place)(gpus_here)
            asked[facts["NodeID"]] = probe.remote()
    gpus = dict(zip(asked, ray.get(list(asked.values()), timeout=PROBE_S), strict=True))
    return Cluster(tuple(node_of(facts, gpus.get(facts["NodeID"], [])) for facts in alive), connected=True)


def node_of(facts: dict[str, Any], gpus: Sequence[tuple[float, bool]]) -> Node:
    """A node, built from what Ray reports about it.

    Args:
        facts: an item of ``ray.nodes()``.
        gpus: what :func:`gpus_here` says there.
    """
    has = facts["Resources"]
    memory, bfloat16 = _least(gpus)
    return Node(
        facts["NodeManagerAddress"],
        has.get("CPU", 0.0),
        has.get("memory", 0.0) / GIB,
        int(has.get("GPU", 0)),
        memory,
        facts["NodeID"],
        bfloat16,
    )


def gpus_here() -> list[tuple[float, bool]]:
    """Of each GPU that is visible to this process, its memory in GiB, and whether it multiplies bfloat16."""
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(gpu.total_memory / GIB, (gpu.major, gpu.minor) >= CAPABILITY) for gpu in found]


def _least(gpus: Sequence[tuple[float, bool]]) -> tuple[float, bool]:
    """What all GPUs of a node have."""
    return min((memory for memory, _ in gpus), default=0.0), all(bfloat16 for _, bfloat16 in gpus)
