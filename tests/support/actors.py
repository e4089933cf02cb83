"""Replicas for tests of pools and placement, in a module that imports nothing heavy: each process imports it anew."""

import os

import ray

from actors.pool import Replica


class Holder(Replica):
    """Says which GPUs it was given."""

    def gpus(self) -> list[int]:
        return [int(gpu) for gpu in ray.get_gpu_ids()]

    def die(self) -> None:
        os._exit(1)
