"""Training workers without Ray: a process group of this process alone, and what jobs train."""

import functools
import os
from collections.abc import Iterator
from unittest.mock import patch

import deepspeed
import pytest
import torch

from tests.support.training_group import join
from tests.support.training_jobs import Material


@pytest.fixture(scope="module")
def process_group(tmp_path_factory) -> Iterator[None]:
    """This process as a group of one; its environment is as before afterwards."""
    with patch.dict(os.environ):
        join(0, 1, tmp_path_factory.mktemp("group") / "rendezvous")
        yield
        # DeepSpeed's own function, if it has met the group: otherwise it keeps it, and the next module's is refused
        known = deepspeed.comm.is_initialized()
        (deepspeed.comm if known else torch.distributed).destroy_process_group()


@pytest.fixture(autouse=True)
def linear() -> Iterator[None]:
    """DeepSpeed's stage 3 replaces it for good, with one that keeps other tensors for the backward pass."""
    with patch.object(torch.nn.functional, "linear", torch.nn.functional.linear):
        yield


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return Material.made(tmp_path_factory.mktemp("material"))


@pytest.fixture
def job(material, tmp_path):
    """Makes jobs: ``job(round)`` starts from the base, ``job(round, after=earlier)`` where an earlier one ended."""
    return functools.partial(material.job, tmp_path)
