"""The scorer pool: reward models, rule terms, judges, likelihoods, and the training of the task's own reward model."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from peft import PeftModel

from actors import harness
from actors.backlog import Backlog
from actors.file_transfer import SHARED_DISK, Files
from actors.placement.role import Role
from actors.pool import DEADLINE_S, EndsProcess, Pool, Replica
from scpl_ray import checks, tasks
from scpl_ray.config import Experiment, schema
from scpl_ray.models import kept_prompts
from scpl_ray.models.adapters import load_model
from scpl_ray.models.kept_prompts import KeptPrompts
from scpl_ray.models.likelihood import CPU_TOKENS, negative_log_likelihood
from scpl_ray.models.limits import positions
from scpl_ray.models.tokens import Ids, load_tokenizer
from scpl_ray.own import functions
from scpl_ray.protocols import Background, Choice, Process, ReadsTogether, Task
from scpl_ray.records import Completion, Judgement, Query, Score, Weights
from scpl_ray.training import reward_model

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

HARNESS_TOKENS = 1024
"""Tokens of a long request of lm-evaluation-harness; models can read many times more than most tasks ask."""
LANGUAGE_MODELS_KEPT = 2
"""Language models kept in memory for likelihoods: the base model and the current policy."""


def depends_on(experiment: Experiment) -> tuple[str, ...]:
    """Sections and keys that the scorers are started with: runs with equal values can share the scorers.

    The keys of the task include those of the model and the reward that the scorers read themselves.
    """
    return (*tasks.depends_on(experiment), "generation.refresh", "reward.function")


class Reader(Replica):
    """Reads texts by the task's rules and by its judge, which need no GPU."""

    def __init__(self, log_file: Path, task: Task) -> None:
        super().__init__(log_file)
        self._task = task

    def rule_terms(self, names: Sequence[str], texts: Sequence[tuple[Query, str]]) -> list[dict[str, float]]:
        """The rule terms of these names, by name, of (query, text), in order."""
        if isinstance(self._task, ReadsTogether):
            all_terms = self._task.rule_terms_of(texts)
        else:
            all_terms = [self._task.rule_terms(query, text) for query, text in texts]
        for terms in all_terms:
            checks.terms(names, terms)
        return [{name: terms[name] for name in names} for terms in all_terms]

    def function_rewards(self, function: str, texts: Sequence[tuple[Query, str]]) -> list[float]:
        """The rewards of (query, text) by the user's own function, in order."""
        return functions.rewards(function, [query for query, _ in texts], [text for _, text in texts])

    def judge(self, texts: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """What the judge says of (query, completion id, text), in order."""
        return self._task.judge(texts)


class ScoringActor(Reader):
    """One scorer. Every call names the models it needs; they stay in memory until others are needed."""

    def __init__(self, log_file: Path, experiment: Experiment, task: Task, gpus: float, files: Files) -> None:
        super().__init__(log_file, task)
        self._files = files
        self._groups = experiment.groups.names
        self._tokens_per_batch = experiment.reward.tokens_per_batch
        self._trust_remote_code = experiment.model.trust_remote_code
        self._device = "cuda" if gpus else "cpu"
        self._shares_gpu = 0 < gpus < 1
        automatic = torch.bfloat16 if gpus else torch.float32
        self._dtype = {"auto": automatic, "float32": torch.float32, "bfloat16": torch.bfloat16}[experiment.model.dtype]
        self._reward_model: tuple[Path, reward_model.RewardModel] | None = None
        self._language_models: dict[Path, Any] = {}
        self._read_before: dict[Path, KeptPrompts | None] = {}
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
                effort=reward_model.Effort(tokens_per_pass=self._tokens_per_batch),
                trust_remote_code=self._trust_remote_code,
            )

    def rewards(self, source: Path | None, texts: Sequence[tuple[str, str, str | None]]) -> list[float]:
        """The reward model's rewards of (prompt, completion, asking group), in order."""
        if source is None:
            raise ValueError(
                "reward.terms: 'model' has a weight but there is no reward model; fit one, or name one in use"
            )
        if self._reward_model is None or self._reward_model[0] != source:
            self._reward_model = None
            found = reward_model.load(
                self._files.here(source),
                self._dtype,
                self._device,
                self._groups,
                trust_remote_code=self._trust_remote_code,
            )
            self._reward_model = (source, found)
        pairs, groups = [(prompt, text) for prompt, text, _ in texts], [group for _, _, group in texts]
        with EndsProcess(ValueError):
            self._reward_model[1].sequence.model.to(self._device)
            return self._reward_model[1].score(pairs, self._tokens_per_batch, groups)

    def likelihoods(self, policy: Weights, sequences: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, int]]:
        """Negative log-likelihoods of completions (nats) and their numbers of tokens.

        If adapters are served, the adapter is put into the base model for the call, so that no second copy is needed.
        On a CPU the base model, which is asked of every round's answers to the same prompts, keeps those that fit; on a
        GPU memory is worth more than the pass.
        """
        model = self._language_model(policy.model)
        with EndsProcess(ValueError), self._speaking(policy, model):
            if policy.policy_version == 0 and self._device == "cpu" and policy.model not in self._read_before:
                self._read_before[policy.model] = KeptPrompts(model) if kept_prompts.suits(model) else None
            if (kept := self._read_before.get(policy.model)) is not None and policy.policy_version == 0:
                return kept.negative_log_likelihood(sequences, self._tokens_per_batch)
            return negative_log_likelihood(model, sequences, self._tokens_per_batch)

    def benchmarks(self, policy: Weights, tasks: Sequence[str]) -> dict[str, float]:
        """What a policy scores on tasks of lm-evaluation-harness, by the name of the metric."""
        tokenizer = load_tokenizer(self._files.here(policy.model), trust_remote_code=self._trust_remote_code)
        model = self._language_model(policy.model)
        batch = harness_batch(self._tokens_per_batch, positions(model.config))
        with EndsProcess(ValueError, OSError), self._speaking(policy, model):
            return harness.measured(model, tokenizer, tasks, batch)

    @contextlib.contextmanager
    def _speaking(self, policy: Weights, model: Any) -> Iterator[None]:
        """Inside, a language model holds the adapter of a policy, where adapters are served."""
        if policy.adapter is None or not self._adapters_are_served:
            yield
            return
        adapter = self._files.here(policy.adapter)
        adapted = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()
        try:
            yield
        finally:
            adapted.unload()

    def sleep(self) -> None:
        """Move all models to host memory until they are asked for again, so that others can use the GPU."""
        models = list(self._language_models.values())
        if self._reward_model is not None:
            models.append(self._reward_model[1].sequence.model)
        for model in models:
            model.to("cpu")
        torch.cuda.empty_cache()

    def _language_model(self, model: Path) -> Any:
        if self._shares_gpu:
            # One at a time: the base model waits in host memory while the policy is asked, and the other way round.
            for other in [one for folder, one in self._language_models.items() if folder != model]:
                other.to("cpu")
        if model not in self._language_models:
            while len(self._language_models) >= LANGUAGE_MODELS_KEPT:
                left = next(iter(self._language_models))
                del self._language_models[left]
                self._read_before.pop(left, None)
            loaded = load_model(self._files.here(model), self._dtype, trust_remote_code=self._trust_remote_code)
            self._language_models[model] = loaded.to(self._device).eval()
        self._language_models[model] = self._language_models.pop(model).to(self._device)
        return self._language_models[model]


def harness_batch(tokens_per_batch: int, longest: int | None) -> int:
    """How many requests of lm-evaluation-harness a model reads at a time.

    Args:
        tokens_per_batch: tokens per forward pass.
        longest: most tokens that the model can read; ``None``: there is no end.

    >>> harness_batch(8192, 8192), harness_batch(8192, 256), harness_batch(512, None)
    (8, 32, 1)
    """
    return max(1, tokens_per_batch // min(longest or HARNESS_TOKENS, HARNESS_TOKENS))


class _Gathered(Generic[Answer]):
    """:class:`scpl_ray.protocols.Background`: a backlog, and what its calls need of a completion."""

    def __init__(self, backlog: Backlog[Any, Answer], needed: Callable[[Completion], Any]) -> None:
        self._backlog = backlog
        self._needed = needed
        self._submitted: list[str] = []

    def submit(self, completions: Sequence[Completion]) -> None:
        self._submitted += [c.completion_id for c in completions]
        self._backlog.add([self._needed(c) for c in completions], [_tokens(c) for c in completions])

    def collect(self) -> dict[str, Answer]:
        submitted, self._submitted = self._submitted, []
        return dict(zip(submitted, self._backlog.collect(), strict=True))


def _tokens(completion: Completion) -> int:
    return max(1, len(completion.prompt_token_ids) + len(completion.token_ids))


def readers_beside(scorers: Role) -> Role | None:
    """One reader beside each scorer that has a GPU, and none beside others: their models need the same cores."""
    return Role("reader", scorers.count, 0.0, 0.0, 1) if scorers.gpus else None


class RayScorer:
    """:class:`scpl_ray.protocols.Scorer` on Ray.

    Args:
        experiment: the config.
        task: the task, whose rule terms and judge are computed in the scorers, or in readers beside them.
        role: how many scorers, and what each reserves.
        logs: folder of the scorers' log files.
        files: how scorers read and write the driver's files.
        readers: processes that compute the task's rule terms and judge, so that the model of a scorer with a GPU never
            waits for them; ``None``: the scorers do that too.
        reader_places: Ray's scheduling strategy for each reader; if empty, they are spread over the nodes.
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
        readers: Role | None = None,
        reader_places: Sequence[Any] = (),
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
        self._readers = self._pool
        if readers is not None:
            self._readers = Pool(
                Reader, readers, (task,), environment={}, logs=logs, deadline_s=deadline_s, places=reader_places
            )
        self._terms = {name: weight for name, weight in sorted(experiment.reward.terms.items()) if weight}
        self._by_model = schema.MODEL_TERM in self._terms
        self._rule_names = [name for name in self._terms if name not in schema.NOT_OF_THE_TASK]
        self._function = experiment.reward.function if schema.FUNCTION_TERM in self._terms else None
        whole = experiment.reward.tokens_per_batch
        # a pass on a CPU takes no more, and the shorter calls are, the more evenly scorers are busy
        self._tokens_per_call = whole if role.gpus else min(whole, CPU_TOKENS)
        self._sleeps = role.sleeps
        self.begin()

    def begin(self) -> None:
        """Work for another run from now on; it must ask for the same scorers."""
        for pool in self._pools:
            pool.forget_all()
        self._source: Path | None = None
        self._submitted: list[str] = []
        self._rewards: Backlog[tuple[str, str, str | None], float] = self._backlog(
            self._pool, lambda texts: ("rewards", self._source, texts), "scoring"
        )
        self._rules: Backlog[tuple[Query, str], dict[str, float]] = self._backlog(
            self._readers, lambda texts: ("rule_terms", self._rule_names, texts), "rule terms"
        )
        self._own: Backlog[tuple[Query, str], float] = self._backlog(
            self._readers, lambda texts: ("function_rewards", self._function, texts), "reward.function"
        )

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        """Train the task's own reward model into ``output``; see :func:`scpl_ray.training.reward_model.fit`.

        It may take hours, as long as its scorer has a process.
        """
        call = self._pool.submit("fit", list(choices), base.absolute(), output.absolute(), seed)
        figures: dict[str, float]
        (figures,) = self._pool.results([call], "reward model training", long=True)
        return figures

    def use(self, reward_model: Path | None) -> None:
        """Score with this reward model from now on; ``None``: rule terms only."""
        is_folder = reward_model is not None and reward_model.exists()
        self._source = reward_model.absolute() if reward_model and is_folder else reward_model

    def sleep(self) -> None:
        """Give GPU memory back to others until it is needed again; scorers with GPUs of their own, or none, keep it.

        Raises:
            RuntimeError: a scorer died too often.
            TimeoutError: no scorer answered within the deadline.
        """
        if self._sleeps:
            self._pool.everywhere("sleep", what="leaving the GPUs")

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        """Score completions in the background.

        Args:
            queries: those of the completions, in any order; there may be further ones.
            completions: some or all of a round's.

        Raises:
            ValueError: a completion's query is not given; or as :meth:`collect`, about what was submitted before.
        """
        by_id = {q.query_id: q for q in queries}
        if missing := sorted({c.query_id for c in completions} - by_id.keys()):
            raise ValueError(f"queries: {len(missing)} of the completions' queries are not given, first {missing[0]}")
        asked, tokens = [by_id[c.query_id] for c in completions], [_tokens(c) for c in completions]
        self._submitted += [c.completion_id for c in completions]
        if self._by_model:
            texts = [(q.prompt, c.text, q.group) for q, c in zip(asked, completions, strict=True)]
            self._rewards.add(texts, tokens)
        written = [(q, c.text) for q, c in zip(asked, completions, strict=True)]
        if self._rule_names:
            self._rules.add(written, tokens)
        if self._function is not None:
            self._own.add(written, tokens)

    def collect(self) -> list[Score]:
        """Wait for all that was submitted; returns the scores in the order of submission.

        Raises:
            ValueError: a term of ``reward.terms`` is unknown to the task, there is no reward model to use, or a reward
                is not finite.
            RuntimeError: a scorer died too often.
            TimeoutError: no scorer answered within the deadline.
        """
        submitted, self._submitted = self._submitted, []
        found: list[dict[str, float]] = [{} for _ in submitted]
        try:
            if self._by_model:
                for terms, reward in zip(found, self._rewards.collect(), strict=True):
                    terms[schema.MODEL_TERM] = reward
            if self._function is not None:
                for terms, reward in zip(found, self._own.collect(), strict=True):
                    terms[schema.FUNCTION_TERM] = reward
            if self._rule_names:
                for terms, of_rules in zip(found, self._rules.collect(), strict=True):
                    terms.update(of_rules)
        finally:
            for backlog in (self._rewards, self._own, self._rules):
                backlog.forget()
        scores = [
            Score(completion_id, sum(weight * terms[name] for name, weight in self._terms.items()), terms)
            for completion_id, terms in zip(submitted, found, strict=True)
        ]
        # before they are kept: a resumed run scores again
        if broken := next((score for score in scores if not math.isfinite(score.reward)), None):
            raise ValueError(
                f"the reward of completion {broken.completion_id} is {broken.reward}, from {broken.terms}; every term "
                "must be a finite number: a reward model that overflows needs model.dtype=float32"
            )
        return scores

    def judging(self, queries: Sequence[Query]) -> Background[Judgement]:
        """The task's judge, which reads completions of these queries in the background."""
        by_id = {q.query_id: q for q in queries}
        return _Gathered(
            self._backlog(self._readers, lambda texts: ("judge", texts), "judging"),
            lambda completion: (by_id[completion.query_id], completion.completion_id, completion.text),
        )

    def likelihoods(self, policy: Weights) -> Background[tuple[float, int]]:
        """As :meth:`negative_log_likelihood`, in the background."""
        policy = policy.absolute()
        what = f"likelihoods under policy version {policy.policy_version}"
        return _Gathered(
            self._backlog(self._pool, lambda sequences: ("likelihoods", policy, sequences), what),
            lambda completion: (completion.prompt_token_ids, completion.token_ids),
        )

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        """Per completion, the sum of its tokens' negative log-likelihoods given its prompt (nats), and their number."""
        background = self.likelihoods(policy)
        background.submit(completions)
        found = background.collect()
        return [found[c.completion_id] for c in completions]

    def benchmarks(self, policy: Weights, tasks: Sequence[str]) -> dict[str, float]:
        """What a policy scores on tasks of lm-evaluation-harness, one task per scorer, by the name of the metric.

        Raises:
            ValueError, OSError: the data of a task cannot be had.
            RuntimeError: a scorer died too often.
            TimeoutError: none answered for a day, or within the deadline where one has no process.
        """
        calls = [self._pool.submit("benchmarks", policy.absolute(), [task]) for task in tasks]
        found: dict[str, float] = {}
        for scores in self._pool.results(calls, f"lm-evaluation-harness: {', '.join(tasks)}", long=True):
            found |= scores
        return found

    @property
    def unfinished(self) -> int:
        """Calls that the scorers have not finished."""
        return sum(pool.unfinished for pool in self._pools)

    def processes(self) -> list[Process]:
        """The scorers' processes, and the readers' beside them."""
        return [process for pool in self._pools for process in pool.processes()]

    def close(self) -> None:
        """End the scorers."""
        for pool in self._pools:
            pool.close()

    @property
    def _pools(self) -> list[Pool]:
        return [self._pool] if self._readers is self._pool else [self._pool, self._readers]

    def _backlog(self, pool: Pool, call: Callable[[Sequence[Any]], tuple[Any, ...]], what: str) -> Backlog[Any, Any]:
        """A backlog whose calls are given as the name of a method and its arguments."""
        return Backlog(pool, lambda texts: pool.submit(*call(texts)), self._tokens_per_call, what)
