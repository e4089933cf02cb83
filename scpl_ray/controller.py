"""The self-consuming performative loop (Wang et al., ACL 2026), phase by phase.

::

    Q_t = draw(s_t)              queries       of the population
    F_t = fit(choices(s_t))      reward_model  while the pool generates
    Y_t ~ policy_{t-1}( . | Q_t) completions   scored chunk by chunk
    R_t = reward(Q_t, Y_t)       scores
    K_t = select(Q_t, Y_t, R_t)  selection
    D_t = cycle(K_1..K_t, real)  dataset
    policy_t = train(start, D_t) weights       start: base (retraining) or policy_{t-1} (incremental)
    m_t = measure(policy_t)      evaluation    on two fixed held-out sets
    s_{t+1} = rule(s_t, m_t)     feedback

Every phase reads the files of earlier phases and commits its own. A run is resumed by going through the same phases
again: a phase that is already committed is only read, and work continues at the first phase that is not.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from scpl_ray import records, seeds
from scpl_ray.config import Experiment
from scpl_ray.config.schema import MODEL_TERM
from scpl_ray.evaluation import answering, measure
from scpl_ray.held_out import HeldOut
from scpl_ray.protocols import Encode, Engines, Progress, Task, TrainingJob
from scpl_ray.records import Completion, Example, Judgement, Metric, Query, Score, Weights
from scpl_ray.selection import cycles, steering, strategies
from scpl_ray.selection.examples import COLUMNS, History, candidates_of, training_data
from scpl_ray.storage.manifests import process_facts
from scpl_ray.storage.phase import Phase
from scpl_ray.storage.run_directory import Store
from scpl_ray.training.objectives import OBJECTIVES, dataset_facts

logger = logging.getLogger(__name__)


class Loop:
    """One run of the loop.

    Args:
        experiment: the config.
        task: the prompts, the references and the judge.
        store: the run directory.
        engines: the generator, the scorer, the trainer and the population.
        base: folder of the base model, which is policy version 0.
        encode: turns a prompt and an answer into token ids.
        progress: receives the reports of what the run does.
        reward_model: folder of a given reward model; ``None``: the task's own reward model is fitted each round.
    """

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        store: Store,
        engines: Engines,
        base: Path,
        encode: Encode,
        progress: Progress,
        reward_model: Path | None = None,
    ) -> None:
        self.experiment = experiment
        self.task = task
        self.store = store
        self.engines = engines
        self.base = base
        self.encode = encode
        self.progress = progress
        self.given_reward_model = reward_model
        self.held_out = HeldOut(
            experiment, task, engines.generator, engines.scorer, engines.sampling_bound, progress.generated
        )
        self._served: int | None = None
        self._background, self._loading = ThreadPoolExecutor(1), Future[None]()

    def run(self) -> list[Metric]:
        """Run, or resume, up to the last round; returns the metrics of all rounds."""
        rows = self.evaluation(0)
        for t in range(1, self.experiment.loop.rounds + 1):
            rows += self.round(t)
        return rows

    def round(self, t: int) -> list[Metric]:
        """Do round t, from the shares s_t to policy_t and the shares s_{t+1}; returns the metrics of policy_t."""
        if self.store.manifest(t, "feedback") is None:
            self.engines.trainer.prepare()
            queries = self.queries(t)
            self.generation(t, queries)
            self.selection(t, queries)
            self.dataset(t)
            self.weights(t)
        rows = self.evaluation(t)
        self.feedback(t, rows)
        return rows

    def queries(self, t: int) -> list[Query]:
        """Draw Q_t. The population state is saved before the draw, so that a retry starts from the same state."""
        with self._phase(t, "queries") as phase:
            if phase:
                if t > 1:
                    self.engines.population.restore(self.store.read_json(t - 1, "feedback", "population"))
                phase.write_json("population", self.engines.population.state())
                phase.write_json("shares", self.engines.population.shares())
                phase.write("queries", self.engines.population.draw(t), Query)
        self.engines.population.restore(self.store.read_json(t, "queries", "population"))
        return self.store.read(t, "queries", "queries", Query)

    def generation(self, t: int, queries: Sequence[Query]) -> None:
        """Produce Y_t and R_t: F_t is fitted while the pool generates, then completions are scored as they arrive."""
        by_id = {q.query_id: q for q in queries}
        fewest = OBJECTIVES[self.experiment.training.objective].fewest_samples
        samples = steering.samples(self.experiment, queries, self._rows(t - 1), fewest=fewest)
        unscored: list[pa.Table] = []

        def score() -> None:
            while unscored:
                piece = records.from_table(unscored.pop(0), Completion)
                self.engines.scorer.submit([by_id[c.query_id] for c in piece], piece)

        if self.engines.shares_gpus and self.store.manifest(t, "completions") is None:
            # An engine that starts takes what is free of its share, so that a fit beside it would leave it less.
            self._serve(t - 1)
        with ThreadPoolExecutor(1) as background:
            fitting = background.submit(self.reward_model, t)
            with self._phase(t, "completions", total=sum(samples)) as phase:
                if phase:
                    self._serve(t - 1)
                    drawn: list[pa.Table] = []
                    started = time.monotonic()
                    for chunk in self.engines.generator.stream(queries, samples=samples, purpose=f"round {t}"):
                        drawn.append(records.to_table(chunk, Completion))
                        phase.facts["generation_seconds"] = time.monotonic() - started
                        unscored.append(drawn[-1])
                        self.progress.generated("completions", chunk)
                        if fitting.done():
                            fitting.result()
                            score()
                    fitting.result()
                    phase.facts["processes"] = process_facts(self.engines.generator)
                    phase.write_table("completions", records.table_in_order(drawn, queries, samples))
                else:
                    unscored += records.in_pieces(self.store.table(t, "completions", "completions", Completion))
            fitting.result()
        ids = self.store.column(t, "completions", Completion, "completion_id").to_pylist()
        with self._phase(t, "scores", total=len(ids)) as phase:
            if phase:
                score()
                scores = {s.completion_id: s for s in self.engines.scorer.collect()}
                phase.facts["processes"] = process_facts(self.engines.scorer)
                phase.write("scores", [scores[completion_id] for completion_id in ids], Score)

    def reward_model(self, t: int) -> None:
        """Fit F_t, the task's own reward model, on choices of users drawn from s_t; or use the one that was given."""
        if not self.experiment.reward.terms.get(MODEL_TERM):
            self.engines.scorer.use(None)
        elif self.given_reward_model is not None:
            self.engines.scorer.use(self.given_reward_model)
        else:
            with self._phase(t, "reward_model", total=self.experiment.reward.choices_per_round) as phase:
                if phase:
                    choices = self.engines.population.choices(t, self.experiment.reward.choices_per_round)
                    seed = seeds.derive_seed(self.experiment.seed, "reward model", t)
                    phase.facts |= self.engines.scorer.fit(choices, base=self.base, output=phase.path, seed=seed)
            self.engines.scorer.use(self.store.folder(t, "reward_model"))

    def selection(self, t: int, queries: Sequence[Query]) -> None:
        """Select K_t, the kept completions as weighted training examples (DPO: pairs), and save statistics on them."""
        with self._phase(t, "selection") as phase:
            if phase is None:
                return
            judged: list[Judgement] = []
            if strategies.needs_kinds(self.experiment.selection):
                texts = self.store.table(t, "completions", "completions", Completion)
                phase.write(
                    "judgements", judged := answering.judged(self.engines.scorer.judging(queries), texts), Judgement
                )
            e, errors = self.experiment, self.task.confusion
            columns = (*COLUMNS, "text") if strategies.reads_texts(e.selection) else COLUMNS
            completions = self.store.table(t, "completions", "completions", Completion, columns)
            rewards = self.store.column(t, "scores", Score, "reward").to_numpy()
            candidates = candidates_of(
                queries, completions, rewards, e.groups.names, self.task.kinds, judged, round_=t, seed=e.seed
            )
            kept = strategies.select(
                candidates, e.selection, round_=t, seed=e.seed, initial_shares=e.groups.shares, confusion=errors
            )
            in_pairs = OBJECTIVES[e.training.objective].pairs
            examples, facts = training_data(kept, candidates, completions, e, t, in_pairs=in_pairs)
            phase.facts |= facts
            phase.write_table("kept", examples)

    def dataset(self, t: int) -> None:
        """Compose D_t, the training data, from K_1..K_t and real data by the data cycle."""
        with self._phase(t, "dataset") as phase:
            if phase is None:
                return
            history = History(lambda i: self.store.read(i, "selection", "kept", Example), t)
            e = self.experiment
            examples = cycles.compose(history, self._real_examples, e.cycle, round_=t, seed=e.seed)
            phase.facts |= dataset_facts(examples, e.training)
            phase.write("dataset", examples, Example)

    def weights(self, t: int) -> None:
        """Train policy_t from the base model (retraining) or from policy_{t-1} (incremental)."""
        with self._phase(t, "weights") as phase:
            if phase is None:
                return
            self.engines.generator.sleep()
            result = self.engines.trainer.train(
                TrainingJob(
                    round=t,
                    base=self.base,
                    start=self._policy(0 if self.experiment.loop.starts_from_base else t - 1),
                    dataset=self.store.folder(t, "dataset") / "dataset.parquet",
                    output=phase.path,
                    merge=self.experiment.generation.refresh == "reload",
                    seed=seeds.derive_seed(self.experiment.seed, "training", t),
                    continued=not self.experiment.loop.starts_from_base,
                )
            )
            phase.facts |= dataclasses.asdict(result) | {"processes": process_facts(self.engines.trainer)}
            self._serve(t, wait=False)  # engines read the new files while these are being hashed

    def evaluation(self, t: int) -> list[Metric]:
        """Measure m_t on two sets of prompts, and on a third what steers selection; the same prompts every round."""
        with self._phase(t, "evaluation", total=self.held_out.answers) as phase:
            if phase:
                self._serve(t)
                asked = measure.asked(self.store, t, self.experiment)
                self.held_out.measure(phase, self._policy(0), self._policy(t), asked, self._rows(0) if t else [])
        self.progress.measured(t, rows := self._rows(t))
        return rows

    def feedback(self, t: int, rows: Sequence[Metric]) -> None:
        """Compute s_{t+1}: the users react to the model that they were given."""
        with self._phase(t, "feedback") as phase:
            if phase:
                self.engines.population.step(measure.reaction(rows, self.experiment.feedback.measure))
                phase.write_json("population", self.engines.population.state())
                phase.write_json("shares", self.engines.population.shares())

    def _serve(self, version: int, *, wait: bool = True) -> None:
        if self._served != version:
            self._loading = self._background.submit(self.engines.generator.refresh, self._policy(version))
            self._served = version
        if wait:
            self._loading.result()

    def _policy(self, version: int) -> Weights:
        return self.store.policy(self.experiment, self.base, version)

    def _real_examples(self, count: int, seed: int) -> list[Example]:
        rows = self.task.real_examples(count, seed=seed)
        return [Example(query.query_id, "real", query.group, *self.encode(query, text), 1.0) for query, text in rows]

    def _rows(self, t: int) -> list[Metric]:
        return self.store.read(t, "evaluation", "metrics", Metric)

    @contextmanager
    def _phase(self, t: int, phase: str, total: int = 0) -> Iterator[Phase | None]:
        """Yield the phase for writing, or ``None`` where it is already committed."""
        if self.store.manifest(t, phase) is not None:
            yield None
            return
        self.progress.start(t, phase, total)
        with self.store.phase(t, phase) as work:
            yield work
        manifest = self.store.manifest(t, phase)
        assert manifest is not None
        self.progress.done(manifest)
        logger.info("round %d %s: %.2f s", t, phase, manifest.seconds)
