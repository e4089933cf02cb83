"""The scorer pool: reward models and rule terms, likelihoods, and the training of the task's own reward model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from actors.file_transfer import SHARED_DISK, Files
from actors.placement.role import Role
from actors.pool import DEADLINE_S, EndsProcess, Pool, Replica
from scpl_ray import checks, tasks
from scpl_ray.config import Experiment, schema
from scpl_ray.models.adapters import load_model
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.models.tokens import Ids
from scpl_ray.own import functions
from scpl_ray.protocols import Choice, Process, Task
from scpl_ray.records import Completion, Query, Score, Weights
from scpl_ray.training import reward_model

logger = logging.getLogger(__name__)

LANGUAGE_MODELS_KEPT = 2
"""Language models kept in memory for likelihoods: the base model and the current policy."""
COMPLETIONS_PER_CALL = 256
"""Number of completions whose likelihoods one call asks for."""
DEPENDS_ON = (*tasks.DEPENDS_ON, "generation.refresh", "reward.function")
"""Sections and keys that the scorers are started with: runs with equal values can share the scorers.

The keys of the task include those of the model and the reward that the scorers read themselves.
"""


class ScoringActor(Replica):
    """One scorer. Every call names the models it needs; they stay in memory until others are needed."""

    def __init__(self, log_file: Path, experiment: Experiment, task: Task, gpus: float, files: Files) -> None:
        super().__init__(log_file)
        self._files = files
        self._task = task
        self._groups = experiment.groups.names
        self._terms = {name: weight for name, weight in sorted(experiment.reward.terms.items()) if weight}
        self._function = experiment.reward.function
        self._tokens_per_batch = experiment.reward.tokens_per_batch
        self._trust_remote_code = experiment.model.trust_remote_code
        self._device = "cuda" if gpus else "cpu"
        automatic = torch.bfloat16 if gpus else torch.float32
        self._dtype = {"auto": automatic, "float32": torch.float32, "bfloat16": torch.bfloat16}[experiment.model.dtype]
        self._reward_model: tuple[Path, reward_model.RewardModel] | None = None
        self._language_models: dict[Path, Any] = {}
        self._adapters_are_served = experiment.generation.refresh == "adapter"

    def fit(self, choices: Sequence[Choice], base: Path, output: Path, seed: int) -> dict[str, float]:
        """Train the task's own reward model into ``output``."""
        with self._files.output(output) as folder, EndsProcess(ValueError, OSError):
            return reward_model.fit(
                choices,
                base=self._files.here(base),
                output=folder,
                seed=seed,
                tokens_per_batch=self._tokens_per_batch,
                device=self._device,
            )

    def score(self, source: Path | None, work: Sequence[tuple[Query, str, str]]) -> list[Score]:
        """Scores of (query, completion id, text), in order."""
        terms: list[dict[str, float]] = [{} for _ in work]
        if schema.MODEL_TERM in self._terms:
            texts = [(query.prompt, text) for query, _, text in work]
            groups = [query.group for query, _, _ in work]
            for of_one, reward in zip(terms, self._model_rewards(source, texts, groups), strict=True):
                of_one[schema.MODEL_TERM] = reward
        if schema.FUNCTION_TERM in self._terms and self._function is not None:
            values = functions.rewards(self._function, [query for query, _, _ in work], [text for _, _, text in work])
            for of_one, reward in zip(terms, values, strict=True):
                of_one[schema.FUNCTION_TERM] = reward
        rules = [name for name in self._terms if name not in schema.NOT_OF_THE_TASK]
        for of_one, (query, _, text) in zip(terms, work, strict=True):
            found = self._task.rule_terms(query, text) if rules else {}
            checks.terms(rules, found)
            of_one.update((name, found[name]) for name in rules)
        return [
            Score(completion_id, sum(weight * of_one[name] for name, weight in self._terms.items()), of_one)
            for (_, completion_id, _), of_one in zip(work, terms, strict=True)
        ]

    def likelihoods(self, policy: Weights, sequences: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, int]]:
        """Negative log-likelihoods of completions (nats) and their numbers of tokens.

        If adapters are served, the adapter is put into the base model for the call, so that no second copy is needed.
        """
        model = self._language_model(policy.model)
        with EndsProcess(ValueError):
            if policy.adapter is None or not self._adapters_are_served:
                return negative_log_likelihood(model, sequences, self._tokens_per_batch)
            adapted = PeftModel.from_pretrained(
                model, self._files.here(policy.adapter), autocast_adapter_dtype=False
            ).eval()
            try:
                return negative_log_likelihood(model, sequences, self._tokens_per_batch)
            finally:
                adapted.unload()

    def _language_model(self, model: Path) -> Any:
        if model not in self._language_models:
            while len(self._language_models) >= LANGUAGE_MODELS_KEPT:
                del self._language_models[next(iter(self._language_models))]
            loaded = load_model(self._files.here(model), self._dtype, trust_remote_code=self._trust_remote_code)
            self._language_models[model] = loaded.to(self._device).eval()
        self._language_models[model] = self._language_models.pop(model)
        return self._language_models[model]

    def _model_rewards(
        self, source: Path | None, texts: Sequence[tuple[str, str]], groups: Sequence[str | None]
    ) -> list[float]:
        if source is None:
            raise ValueError(
                "reward.terms: 'model' has a weight but there is no reward model; fit one, or name one in use"
            )
        if self._reward_model is None or self._reward_model[0] != source:
            self._reward_model = None
            found = reward_model.load(self._files.here(source), self._dtype, self._device, self._groups)
            self._reward_model = (source, found)
        with EndsProcess(ValueError):
            return self._reward_model[1].score(texts, self._tokens_per_batch, groups)


class RayScorer:
    """:class:`scpl_ray.protocols.Scorer` on Ray.

    Args:
        experiment: the config.
        task: the task, whose rule terms are computed in the scorers.
        role: how many scorers, and what each reserves.
        logs: folder of the scorers' log files.
        files: how scorers read and write the driver's files.
        deadline_s: longest time without any answer.
        places: Ray's scheduling strategy for each scorer; if empty, they are spread over the nodes.
    """

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        role: Role,
        logs: Path,
        files: Files = SHARED_DISK,
        *,
        deadline_s: float = DEADLINE_S,
        places: Sequence[Any] = (),
    ) -> None:
        self._pool = Pool(
            ScoringActor,
            role,
            (experiment, task, role.gpus, files),
            environment={},
            logs=logs,
            deadline_s=deadline_s,
            places=places,
        )
        self._source: Path | None = None
        self._submitted: list[Any] = []

    def begin(self) -> None:
        """Work for another run from now on; it must ask for the same scorers."""
        self._pool.forget(self._submitted)
        self._source, self._submitted = None, []

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        """Train the task's own reward model into ``output``; see :func:`scpl_ray.training.reward_model.fit`."""
        call = self._pool.submit("fit", list(choices), base.absolute(), output.absolute(), seed)
        figures: dict[str, float]
        (figures,) = self._pool.results([call], "reward model training")
        return figures

    def use(self, reward_model: Path | None) -> None:
        """Score with this reward model from now on; ``None``: rule terms only."""
        is_folder = reward_model is not None and reward_model.exists()
        self._source = reward_model.absolute() if reward_model and is_folder else reward_model

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        """Score one chunk in the background.

        Args:
            queries: those of the completions, in any order; there may be further ones.
            completions: the chunk.

        Raises:
            ValueError: a completion's query is not given.
        """
        by_id = {q.query_id: q for q in queries}
        if missing := sorted({c.query_id for c in completions} - by_id.keys()):
            raise ValueError(f"queries: {len(missing)} of the completions' queries are not given, first {missing[0]}")
        work = [(by_id[c.query_id], c.completion_id, c.text) for c in completions]
        self._submitted.append(self._pool.submit("score", self._source, work))

    def collect(self) -> list[Score]:
        """Wait for all submitted chunks and return the scores in the order of submission.

        Raises:
            ValueError: a term of ``reward.terms`` is unknown to the task, or there is no reward model to use.
            RuntimeError: a scorer died too often.
            TimeoutError: no scorer answered within the deadline.
        """
        submitted, self._submitted = self._submitted, []
        chunks: list[list[Score]] = self._pool.results(submitted, "scoring")
        return [score for chunk in chunks for score in chunk]

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        """Per completion, the sum of its tokens' negative log-likelihoods given its prompt (nats), and their number."""
        policy = policy.absolute()
        sequences = [(c.prompt_token_ids, c.token_ids) for c in completions]
        size = COMPLETIONS_PER_CALL
        calls = [
            self._pool.submit("likelihoods", policy, sequences[i : i + size]) for i in range(0, len(sequences), size)
        ]
        what = f"likelihoods under policy version {policy.policy_version}"
        answers: list[list[tuple[float, int]]] = self._pool.results(calls, what)
        return [one for answer in answers for one in answer]

    @property
    def unfinished(self) -> int:
        """Calls that the scorers have not finished."""
        return self._pool.unfinished

    def processes(self) -> list[Process]:
        """The scorers' processes."""
        return self._pool.processes()

    def close(self) -> None:
        """End the scorers."""
        self._pool.close()
