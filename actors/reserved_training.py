"""Ray Train inside GPUs that are reserved already.

By itself Ray Train makes a placement group of its own for every run, which can be pinned to nodes but not to GPUs.
Where several trials of a study share a node, a worker of one could then sit on a GPU of another. Here the workers run
in the bundles in which their run's engines and scorers are (:class:`actors.placement.reservation.Reservation`), and the
group outlives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE, get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import DefaultPlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

Places = Sequence[PlacementGroupSchedulingStrategy]


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's ``TorchTrainer`` whose workers run in these places, in order; without places, as Ray puts them.

    It starts no process that would hand out the shards of a ``ray.data`` dataset, as Ray 2.60 does even if there is
    none: the workers read their own files. Nor does it start the process that removes the placement group of a run
    whose controller has died, where that group is not the run's own.
    """

    def __init__(self, *arguments: Any, places: Places = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._places = places

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = (DatasetsCallback, *((PlacementGroupCleanerCallback,) if self._places else ()))
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unwanted)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if not self._places:
            return super()._initialize_and_run_controller(**settings)
        variables = get_env_vars_to_propagate()
        variables.setdefault(
            RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR, DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE
        )
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": variables})(_Controller)
        controller = actor.remote(self._places, **settings)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


class _Controller(TrainController):  # type: ignore[misc]
    """A controller that starts its workers in these places."""

    def __init__(self, places: Places, **settings: Any) -> None:
        super().__init__(**settings)
        self.worker_group_cls = type("ReservedWorkers", (_Workers,), {"places": places})


class _Workers(WorkerGroup):  # type: ignore[misc]
    """Workers in the bundles of a group that is reserved for them."""

    places: Places = ()

    def _create_placement_group(self, *_: Any) -> _Borrowed:
        return _Borrowed(self.places[0].placement_group)

    def _create_workers(
        self, num_workers: int, placement_group: Any, resources_per_worker: dict[str, float], **how: Any
    ) -> Any:
        how["placement_group_bundle_indices"] = [place.placement_group_bundle_index for place in self.places]
        return super()._create_workers(num_workers, placement_group, resources_per_worker, **how)


class _Borrowed(DefaultPlacementGroupHandle):  # type: ignore[misc]
    """A placement group that somebody else removes."""

    def shutdown(self) -> None:
        """Leave the group to whoever reserved it; the workers have ended."""
