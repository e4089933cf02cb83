"""TensorBoard event files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from scpl_ray.records import Metric


class TensorBoard:
    """Writes one scalar per metric and round: ``<metric>/<group>`` or ``<metric>``."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics."""
        for row in rows:
            tag = row.metric if row.group is None else f"{row.metric}/{row.group}"
            self._writer.add_scalar(tag, row.value, row.round)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
