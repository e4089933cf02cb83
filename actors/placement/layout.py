"""Which process gets which CPU and GPU: pure functions.

Generation, scoring and training take turns. Without GPUs a process asks for a fraction of a core, because only one
phase at a time uses it. On GPUs either each process has its own (dedicated), or an engine, a scorer and a training
worker share each one (colocated): the engine then sleeps while the worker trains. An engine that is split over several
GPUs shares each of them with a scorer and a worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from actors.engines.registry import ENGINES
from actors.placement.cluster import Cluster, Node
from actors.placement.memory import Estimate, Mode, Sizes, estimates
from actors.placement.role import Role
from scpl_ray.config import Experiment
from scpl_ray.models import precision

ENGINE_CPUS, SCORER_CPUS, WORKER_CPUS = 0.4, 0.15, 0.4
"""Shares of a core that a process reserves on a machine without GPUs; together less than one, because the process
that drives a trial of a study reserves a little too. They hold as well where processes share GPUs of a node that has
no core for each."""
WHOLE_CPUS = (1.0, 1.0, 1.0)
"""CPUs that each process reserves on a machine with GPUs."""
ENGINE_GPUS, SCORER_GPUS, WORKER_GPUS = 0.5, 0.1, 0.4
"""Shares of a GPU if the three roles share it. Engine and scorer are reserved together and take more than half a GPU,
so that no GPU gets two such pairs and each keeps room for exactly one worker."""
ENGINE_MEMORY = {"round": 0.6, "run": 0.3}
"""Part of a shared GPU's memory that an engine uses while it is awake, by ``training.worker_lifetime``: workers that
live for the whole run keep their memory meanwhile."""
ENGINES_PER_SCORER = 3
"""``auto`` on GPUs of their own: a scorer reads in one pass what engines write token by token."""
UNKNOWN_GIB = 3.0
"""``auto`` on CPUs: what an engine and a scorer take of a node's memory as long as the model is not known."""
SLACK = 1e-9
ADVICE = {
    "engine": "raise generation.tensor_parallel, lower generation.max_new_tokens or task.max_prompt_tokens",
    "scorer": "lower reward.tokens_per_batch, set generation.refresh=adapter, or use a smaller reward.model",
    "scorer on a shared GPU": "lower reward.tokens_per_batch, or use a smaller reward.model",
    "training worker": "train an adapter (model.lora), set training.zero_stage=3 with more training.workers, "
    "training.gradient_checkpointing=true, or lower training.tokens_per_micro_batch",
}
"""How to make the processes of a role need less memory. On a shared GPU a scorer holds one model either way."""

GROW = "if this cluster can grow, say to what: placement.cluster=4x32cpu:256gib:1gpu:44gib"
"""What a refusal by a cluster ends with that was not said to grow; the example is ``cluster.yaml``'s."""


class PlacementError(ValueError):
    """The machine or cluster is too small; the message says what was asked, what there is, and what would fit."""


@dataclasses.dataclass(frozen=True)
class Seat:
    """The place of one process."""

    role: str
    index: int
    node: Node
    gpus: tuple[int, ...] = ()
    """Which of the node's GPUs; processes with equal numbers share them. Ray decides which device a number stands
    for."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which resources each process gets."""

    mode: Mode
    engine: Role
    scorer: Role
    worker: Role
    seats: tuple[Seat, ...]
    """All processes, role by role in the order of their indices."""
    estimates: Mapping[str, Estimate] | None
    """Memory by role; ``None``: a model's config is not on this machine yet."""

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        """All three roles."""
        return self.engine, self.scorer, self.worker

    def of(self, role: Role) -> list[Seat]:
        """The seats of one role, in order."""
        return [seat for seat in self.seats if seat.role == role.name]


@dataclasses.dataclass(frozen=True)
class _Item:
    """Processes that must be placed together on one node."""

    members: tuple[tuple[str, int, tuple[int, ...]], ...]
    """Role and index of each process, and which of the GPUs of this item it uses."""
    cpus: float
    gpus: int
    gpu_gib: float
    """Memory that is needed of each GPU."""
    host_gib: float

    @property
    def name(self) -> str:
        return " + ".join(f"{role} {index}" for role, index, _ in self.members)


@dataclasses.dataclass
class _Room:
    """The resources of a node that are still free."""

    node: Node
    cpus: float
    free: list[int]
    host_gib: float

    def fits(self, item: _Item) -> bool:
        return (
            item.cpus <= self.cpus + SLACK
            and item.gpus <= len(self.free)
            and (not item.gpus or item.gpu_gib <= self.node.gpu_memory_gib + SLACK)
            and item.host_gib <= self.host_gib + SLACK
        )

    def take(self, item: _Item) -> list[Seat]:
        taken, self.free = self.free[: item.gpus], self.free[item.gpus :]
        self.cpus -= item.cpus
        self.host_gib -= item.host_gib
        return [Seat(role, index, self.node, tuple(taken[i] for i in own)) for role, index, own in item.members]

    def __str__(self) -> str:
        gpus = f", {len(self.free)} GPUs of {self.node.gpu_memory_gib:g} GiB" if self.node.gpus else ""
        return f"{self.node.name}: {self.cpus:g} CPUs, {self.host_gib:.1f} GiB{gpus}"


def layout(experiment: Experiment, cluster: Cluster, sizes: Sizes | None = None) -> Layout:
    """Place an experiment's processes.

    Args:
        experiment: the config.
        cluster: the resources that there are.
        sizes: sizes of the models; ``None``: they are not known yet, and only CPUs and GPUs are counted.

    Raises:
        PlacementError: the processes do not fit the cluster.
    """
    try:
        experiment = precision.suited(experiment, cluster.without_bfloat16)
    except ValueError as error:
        raise PlacementError(str(error)) from error
    split = experiment.generation.tensor_parallel
    if sizes is not None and split > 1 and not (model := sizes.policy).splits_over(split):
        possible = ", ".join(str(n) for n in range(1, model.attention_heads + 1) if n == 1 or model.splits_over(n))
        width = f", feed-forward layers of {model.feed_forward}" if model.feed_forward else ""
        raise PlacementError(
            f"generation.tensor_parallel = {split}: the model has {model.attention_heads} attention heads, "
            f"{model.key_value_heads} key-value heads{width} and {model.vocabulary} vocabulary entries, all of which "
            f"are split evenly; one of {possible}"
        )
    try:
        return _laid_out_on(experiment, cluster, sizes)
    except PlacementError as error:
        if cluster.connected and experiment.placement.cluster is None:
            raise PlacementError(f"{error}; {GROW}") from error
        raise


def _laid_out_on(experiment: Experiment, cluster: Cluster, sizes: Sizes | None) -> Layout:
    wanted, split = experiment.placement.gpus, experiment.generation.tensor_parallel
    if not cluster.gpus:
        if wanted != "auto" or split > 1:
            key = f"generation.tensor_parallel = {split}" if split > 1 else f"placement.gpus = {wanted!r}"
            raise PlacementError(f"{key}: there are no GPUs; leave it out, or run on a cluster with GPUs")
        return _roomiest(_on_cpus, _of_cores(cluster, sizes), experiment, cluster, sizes)
    own_gpus, shared_gpus = _of_own_gpus(experiment, cluster), _of_shared_gpus(experiment, cluster)
    if wanted == "dedicated" or not ENGINES[experiment.generation.engine].sleeps:
        return _roomiest(_dedicated, own_gpus, experiment, cluster, sizes)
    if wanted == "colocated":
        return _roomiest(_colocated, shared_gpus, experiment, cluster, sizes)
    try:
        return _roomiest(_dedicated, own_gpus, experiment, cluster, sizes)
    except PlacementError as own:
        try:
            return _roomiest(_colocated, shared_gpus, experiment, cluster, sizes)
        except PlacementError as shared:
            raise PlacementError(f"placement.gpus = 'auto': dedicated: {own}; colocated: {shared}") from shared


def settled(experiment: Experiment, engines: int, scorers: int) -> Experiment:
    """The experiment with these numbers of engines and scorers wherever it leaves them to the layout."""
    generation, reward = experiment.generation, experiment.reward
    if generation.replicas == "auto":
        generation = generation.model_copy(update={"replicas": engines})
    if reward.replicas == "auto":
        reward = reward.model_copy(update={"replicas": scorers})
    return experiment.model_copy(update={"generation": generation, "reward": reward})


def on_fewest_nodes(placed: Layout, cluster: Cluster) -> list[list[Seat]]:
    """The seats on each node that a layout needs: on CPUs it spreads over all nodes, and may fit fewer."""
    ways = [placed.seats]
    if placed.mode == "cpu":
        items = [_alone(role, index, placed.estimates) for role in placed.roles for index in range(role.count)]
        packed = _packed(items, cluster, spread=False)
        ways += [] if isinstance(packed, _Unplaced) else [packed]
    seats = min(ways, key=lambda way: len({seat.node for seat in way}))
    return [[seat for seat in seats if seat.node == node] for node in dict.fromkeys(seat.node for seat in seats)]


def _of_cores(cluster: Cluster, sizes: Sizes | None) -> list[tuple[int, int]]:
    """Numbers of engines and scorers on CPUs, most first: one of each per core, because phases take turns."""
    most = sum(int(node.cpus) for node in cluster.nodes)
    if sizes is None:
        most = min(most, sum(int(node.memory_gib // UNKNOWN_GIB) for node in cluster.nodes))
    return [(n, n) for n in range(max(1, most), 0, -1)]


def _of_own_gpus(experiment: Experiment, cluster: Cluster) -> list[tuple[int, int]]:
    """Numbers of engines and scorers on GPUs that the training workers leave, most first."""
    found = []
    for left in range(cluster.gpus - experiment.training.workers, 0, -1):
        scorers = max(1, left // (1 + ENGINES_PER_SCORER * experiment.generation.tensor_parallel))
        found.append((max(1, (left - scorers) // experiment.generation.tensor_parallel), scorers))
    return [*dict.fromkeys([*found, (1, 1)])]


def _of_shared_gpus(experiment: Experiment, cluster: Cluster) -> list[tuple[int, int]]:
    """Numbers of engines and scorers on GPUs that they share, most first: a scorer per GPU, and engines on whole sets
    of GPUs of one node each."""
    split = experiment.generation.tensor_parallel
    sets = sum(node.gpus // split for node in cluster.nodes)
    return [(max(1, min(n // split, sets)), n) for n in range(cluster.gpus, 0, -1)]


def _roomiest(
    kind: Callable[[Experiment, Cluster, Sizes | None], Layout],
    numbers: Sequence[tuple[int, int]],
    experiment: Experiment,
    cluster: Cluster,
    sizes: Sizes | None,
) -> Layout:
    """The layout of a kind with the first numbers of engines and scorers that fit."""
    for engines, scorers in numbers[:-1] if settled(experiment, 1, 1) != experiment else ():
        with contextlib.suppress(PlacementError):
            return kind(settled(experiment, engines, scorers), cluster, sizes)
    return kind(settled(experiment, *numbers[-1]), cluster, sizes)


def _counts(experiment: Experiment) -> dict[str, int]:
    engines, scorers = experiment.generation.replicas, experiment.reward.replicas
    assert engines != "auto" and scorers != "auto"
    return {
        "generation.replicas": engines,
        "reward.replicas": scorers,
        "training.workers": experiment.training.workers,
    }


def _on_cpus(experiment: Experiment, cluster: Cluster, sizes: Sizes | None) -> Layout:
    counts = _counts(experiment)
    shares = (ENGINE_CPUS, SCORER_CPUS, WORKER_CPUS)
    _check("CPU", counts, shares, cluster.cpus)
    found = estimates(experiment, sizes, "cpu") if sizes else None
    roles = _roles(tuple(counts.values()), shares, (0.0, 0.0, 0.0))
    items = [_alone(role, index, found) for role in roles for index in range(role.count)]
    # Spread, because threads of processes on one node would compete for its cores.
    seats = _packed(items, cluster, spread=True)
    if isinstance(seats, _Unplaced):
        seats = _packed(items, cluster, spread=False)
    return _laid_out("cpu", roles, seats, found)


def _dedicated(experiment: Experiment, cluster: Cluster, sizes: Sizes | None) -> Layout:
    counts = _counts(experiment)
    each = (float(experiment.generation.tensor_parallel), 1.0, 1.0)
    _check("GPU", counts, each, cluster.gpus)
    _check("CPU", counts, WHOLE_CPUS, cluster.cpus)
    found = estimates(experiment, sizes, "dedicated") if sizes else None
    roles = _roles(tuple(counts.values()), WHOLE_CPUS, each)
    for role in roles:
        if found:
            _check_memory(role.name, _on_gpu(role, found), found[role.name], _largest_gpu(cluster), ADVICE[role.name])
    by_role = [[_alone(role, index, found) for index in range(role.count)] for role in roles]
    # The role that is placed first decides which role is left with small nodes or small GPUs.
    tried = [_packed(itertools.chain(*order), cluster, spread=False) for order in itertools.permutations(by_role)]
    whole = [seats for seats in tried if not isinstance(seats, _Unplaced)]
    # Workers communicate at every step, which is faster on one node.
    best = min(whole, key=lambda seats: len({seat.node for seat in seats if seat.role == roles[2].name}), default=None)
    return _laid_out("dedicated", roles, best or tried[0], found)


def _colocated(experiment: Experiment, cluster: Cluster, sizes: Sizes | None) -> Layout:
    """Processes that share GPUs, with a core each or, where a node has too few of these, shares of cores too."""
    try:
        return _colocated_on(experiment, cluster, sizes, WHOLE_CPUS)
    except PlacementError:
        if all(node.cpus >= sum(WHOLE_CPUS) * node.gpus for node in cluster.nodes):
            raise
    return _colocated_on(experiment, cluster, sizes, (ENGINE_CPUS, SCORER_CPUS, WORKER_CPUS))


def _colocated_on(experiment: Experiment, cluster: Cluster, sizes: Sizes | None, cpus: Sequence[float]) -> Layout:
    counts, split = _counts(experiment), experiment.generation.tensor_parallel
    _check_shared(counts, split, cluster)
    _check("CPU", counts, cpus, cluster.cpus)
    found = estimates(experiment, sizes, "colocated") if sizes else None
    share = ENGINE_MEMORY[experiment.training.worker_lifetime]
    roles = _roles(tuple(counts.values()), cpus, (ENGINE_GPUS, SCORER_GPUS, WORKER_GPUS))
    roles = (
        dataclasses.replace(roles[0], memory_share=share, sleeps=True, shares=split),
        dataclasses.replace(roles[1], sleeps=True),
        roles[2],
    )
    needed = _checked_sharing(experiment, cluster, sizes, found) if sizes and found else 0.0
    items = [_sharing(gpus, roles, needed, found) for gpus in _sets_of_gpus(roles)]
    return _laid_out("colocated", roles, _packed(items, cluster, spread=False), found)


def _needed_of_shared(experiment: Experiment, found: Mapping[str, Estimate]) -> dict[str, float]:
    """Memory that a GPU must have for each role, beside what else shares it meanwhile, in GiB."""
    engine, scorer, worker = (found[name] for name in ("engine", "scorer", "training worker"))
    share = ENGINE_MEMORY[experiment.training.worker_lifetime]
    return {
        "engine": engine.total / share,
        "scorer": (scorer.total + worker.idle) / (1 - share),
        "training worker": engine.idle + scorer.idle + worker.total,
    }


def _checked_sharing(experiment: Experiment, cluster: Cluster, sizes: Sizes, found: Mapping[str, Estimate]) -> float:
    """Memory that a shared GPU must have in GiB, which the largest of the cluster has."""
    needed, largest = _needed_of_shared(experiment, found), _largest_gpu(cluster)
    share = ENGINE_MEMORY[experiment.training.worker_lifetime]
    training = experiment.training.model_copy(update={"worker_lifetime": "round"})
    briefly = experiment.model_copy(update={"training": training})
    less = _needed_of_shared(briefly, estimates(briefly, sizes, "colocated"))
    # What a scorer holds does not matter where the worker that waits beside it is too large already.
    crowded = found["training worker"].idle / (1 - share) > largest
    advice = ADVICE | {"scorer": ADVICE["training worker" if crowded else "scorer on a shared GPU"]}
    for name, gib in needed.items():
        first = ""
        if less[name] < gib - SLACK and max(less.values()) < max(needed.values()):
            first = f"set training.worker_lifetime=round (all of it then needs GPUs of {max(less.values()):.1f} GiB), "
        beside = f" beside what shares the GPU (engines use {share:g} of it)"
        _check_memory(name, gib, found[name], largest, first + advice[name], beside)
    return max(needed.values())


def _sets_of_gpus(roles: tuple[Role, Role, Role]) -> list[range]:
    """The GPUs of a layout in which processes share them, numbered through: first those of each engine."""
    engine, scorer, worker = roles
    with_engines = engine.count * engine.shares
    sets = [range(first, first + engine.shares) for first in range(0, with_engines, engine.shares)]
    return sets + [range(gpu, gpu + 1) for gpu in range(with_engines, max(scorer.count, worker.count))]


def _sharing(
    gpus: range, roles: tuple[Role, Role, Role], gpu_gib: float, found: Mapping[str, Estimate] | None
) -> _Item:
    """What shares GPUs: an engine, if there is one for them, and on each of them a scorer and a worker."""
    engine, *others = roles
    offsets = tuple(range(len(gpus)))
    of_engine = gpus.start // engine.shares
    members = [(engine.name, of_engine, offsets)] if of_engine < engine.count else []
    members += [(role.name, gpus[i], (i,)) for i in offsets for role in others if gpus[i] < role.count]
    names = [name for name, *_ in members]
    cpus = sum(role.cpus * names.count(role.name) for role in roles)
    host = sum(found[name].host for name in names) if found else 0.0
    return _Item(tuple(members), cpus, len(gpus), gpu_gib, host)


def _check_shared(counts: Mapping[str, int], split: int, cluster: Cluster) -> None:
    """Check that there are as many GPUs as the most numerous processes ask for; others share these."""
    each = {key: split if key == "generation.replicas" else 1 for key in counts}
    key = max(counts, key=lambda name: counts[name] * each[name])
    asked = counts[key] * each[key]
    if asked <= cluster.gpus:
        return
    fits = {name: cluster.gpus // each[name] for name in counts if counts[name] * each[name] > cluster.gpus}
    if not all(fits.values()):
        fits = {"generation.tensor_parallel": max(node.gpus for node in cluster.nodes)}
    *ways, last = (f"{name} to {most}" for name, most in fits.items())
    own = "a GPU" if each[key] == 1 else f"{split} GPUs"
    raise PlacementError(
        f"{asked} GPUs are asked for ({key}={counts[key]}, each on {own} that no other of its kind shares) but there "
        f"are {cluster.gpus}; lower {', '.join(ways) + ' and ' if ways else ''}{last} or run on a larger machine or "
        "cluster"
    )


def _roles(counts: Sequence[int], cpus: Sequence[float], gpus: Sequence[float]) -> tuple[Role, Role, Role]:
    # one thread per engine and scorer, because their results must not depend on how many there are
    return (
        Role("engine", counts[0], cpus[0], gpus[0], 1),
        Role("scorer", counts[1], cpus[1], gpus[1], 1),
        Role("training worker", counts[2], cpus[2], gpus[2], 1),
    )


def _on_gpu(role: Role, found: Mapping[str, Estimate]) -> float:
    """Memory that a GPU must have if only this process uses it, in GiB."""
    return found[role.name].total / (role.memory_share if role.name == "engine" else 1.0)


def _alone(role: Role, index: int, found: Mapping[str, Estimate] | None) -> _Item:
    gpu, host = (_on_gpu(role, found), found[role.name].host) if found else (0.0, 0.0)
    gpus = int(role.gpus)
    return _Item(((role.name, index, tuple(range(gpus))),), role.cpus, gpus, gpu if gpus else 0.0, host)


@dataclasses.dataclass(frozen=True)
class _Unplaced:
    """A packing that failed."""

    item: _Item
    rooms: tuple[_Room, ...]


def _packed(items: Iterable[_Item], cluster: Cluster, *, spread: bool) -> tuple[Seat, ...] | _Unplaced:
    """Seats for all items in turn, each on the node with the least room or, with ``spread``, the most."""
    rooms = [_Room(node, node.cpus, list(range(node.gpus)), node.memory_gib) for node in cluster.nodes]
    seats: list[Seat] = []
    for item in items:
        fitting = [room for room in rooms if room.fits(item)]
        if not fitting:
            return _Unplaced(item, tuple(rooms))
        if spread:
            seats += max(fitting, key=lambda room: room.cpus).take(item)
        else:
            seats += min(fitting, key=lambda room: (room.node.gpu_memory_gib, len(room.free), room.cpus)).take(item)
    return tuple(seats)


def _laid_out(
    mode: Mode,
    roles: tuple[Role, Role, Role],
    seats: tuple[Seat, ...] | _Unplaced,
    found: Mapping[str, Estimate] | None,
) -> Layout:
    if isinstance(seats, _Unplaced):
        item = seats.item
        gpus = f", {item.gpus} GPUs" + (f" of {item.gpu_gib:.1f} GiB" if item.gpu_gib else "") if item.gpus else ""
        failed, placed, _ = item.members[0]
        asked = ", ".join(f"{role.count} x {role.name}" for role in roles)
        raise PlacementError(
            f"{item.name} asks for {item.cpus:g} CPUs, {item.host_gib:.1f} GiB{gpus} on one node; left are "
            f"{'; '.join(map(str, seats.rooms))}; of {asked} the first {placed} of {failed} fit; ask for no "
            "more, or add a node with as much"
        )
    order = [role.name for role in roles]
    seats = tuple(sorted(seats, key=lambda seat: (order.index(seat.role), seat.index)))
    on_node: dict[Node, int] = {}
    for seat in seats:
        if seat.role == roles[2].name:
            on_node[seat.node] = on_node.get(seat.node, 0) + 1
    threads = min(max(1, int(node.cpus) // count) for node, count in on_node.items())
    return Layout(mode, roles[0], roles[1], dataclasses.replace(roles[2], threads=threads), seats, found)


def _check(unit: str, counts: Mapping[str, int], each: Sequence[float], available: float) -> None:
    keys = list(counts)
    asked = sum(counts[key] * share for key, share in zip(keys, each, strict=True))
    if asked > available + SLACK:
        parts = ", ".join(f"{key}={counts[key]} x {share:g}" for key, share in zip(keys, each, strict=True))
        worst = max(range(len(keys)), key=lambda i: counts[keys[i]] * each[i])
        room = available - (asked - counts[keys[worst]] * each[worst])
        fits = int((room + SLACK) / each[worst])
        if fits >= 1:
            way = f"lower {keys[worst]} to {fits} or"
        elif sum(each) <= available + SLACK:
            way = "one of each fits: lower all of them, or"
        else:
            way = f"one of each needs {sum(each):g} already:"
        raise PlacementError(
            f"{asked:g} {unit}s are asked for ({parts}) but there are {available:g}; {way} run on a larger machine or "
            "cluster"
        )


def _largest_gpu(cluster: Cluster) -> float:
    return max(node.gpu_memory_gib for node in cluster.nodes if node.gpus)


def _check_memory(name: str, gib: float, estimate: Estimate, largest: float, way: str, beside: str = "") -> None:
    if gib > largest + SLACK:
        parts = ", ".join(f"{what} {part:.1f}" for what, part in estimate.working.items())
        raise PlacementError(
            f"{name}: holds about {estimate.total:.1f} GiB on each of its GPUs ({parts}) and needs GPUs of "
            f"{gib:.1f} GiB{beside}, but the largest have {largest:g}; {way}, or use larger GPUs"
        )
