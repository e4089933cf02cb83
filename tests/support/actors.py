"""Replicas for tests of pools and placement, in a module that imports nothing heavy: each process imports it anew."""

import os
from typing import Any

import ray

from actors.pool import Replica


class Holder(Replica):
    """Says which GPUs it was given."""

    def gpus(self) -> list[int]:
        return [int(gpu) for gpu in ray.get_gpu_ids()]

    def visible(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def die(self) -> None:
        os._exit(1)


class Told:
    """An actor that is told on which GPUs each worker is."""

    def __init__(self) -> None:
        self.said: dict[int, list[int]] = {}

    def add(self, rank: int, gpus: list[int]) -> None:
        self.said[rank] = gpus

    def all(self) -> list[list[int]]:
        return [self.said[rank] for rank in sorted(self.said)]


def tell_gpus(settings: dict[str, Any]) -> None:
    """A train loop of Ray Train that tells ``settings["told"]`` on which GPUs its worker is."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    ray.get(settings["told"].add.remote(rank, [int(gpu) for gpu in ray.get_gpu_ids()]))
