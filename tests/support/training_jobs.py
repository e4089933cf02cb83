"""Jobs for training workers: small settings, base models, a dataset, and what a finished job wrote."""

import dataclasses
from pathlib import Path

from scpl_ray.config import Lora, Model, Training
from scpl_ray.protocols import TrainingJob
from scpl_ray.records import Weights
from tests.support.tiny_models import FAMILIES, pairs, save_examples, save_model

ADAPTER, FULL = Model(lora=Lora(rank=4, alpha=8.0)), Model(lora=None)
SMALL = Training(zero_stage=2, learning_rate=1e-2, epochs=2, tokens_per_step=200, tokens_per_micro_batch=64)
DPO = {"objective": "dpo", "dpo_beta": 0.3}


@dataclasses.dataclass(frozen=True)
class Material:
    """What jobs train: untrained models of all families, and pairs of answers."""

    bases: dict[str, Path]
    """By family."""
    dataset: Path

    @classmethod
    def made(cls, root: Path) -> "Material":
        bases = {family: save_model(root / family, family) for family in FAMILIES}
        return cls(bases, save_examples(root / "examples.parquet", pairs(60)))

    def job(
        self,
        folder: Path,
        round_: int,
        *,
        after: TrainingJob | None = None,
        family: str = "llama",
        name: str = "",
        **changes: object,
    ) -> TrainingJob:
        """A job that writes below a folder and starts from the base or, with ``after``, where an earlier one ended."""
        base = self.bases[family]
        start = Weights(0, base)
        if after is not None:
            adapter, model = after.output / "adapter", after.output / "model"
            start = Weights(after.round, model if model.exists() else base, adapter if adapter.exists() else None)
        output = folder / f"{name}round{round_}"
        output.mkdir()
        whole = TrainingJob(round_, base, start, self.dataset, output, merge=False, seed=round_)
        return dataclasses.replace(whole, **changes)


def written(job: TrainingJob) -> dict[str, bytes]:
    """Every weight file of a finished job."""
    return {str(f.relative_to(job.output)): f.read_bytes() for f in sorted(job.output.rglob("*.safetensors"))}
