"""Measuring a policy: it is asked the held-out prompts of a task, and its answers are judged and counted.

A run measures the policy of every round so, and ``scpl measure --checkpoints`` any other models: the same prompts,
seeds, judge and metrics.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from scpl_ray.config import Experiment
from scpl_ray.evaluation import answering, likelihoods, measure
from scpl_ray.evaluation.measure import Asked
from scpl_ray.protocols import Generator, Scorer, Task, judge_errors
from scpl_ray.records import Completion, Judgement, Metric, Query, Weights
from scpl_ray.selection import steering
from scpl_ray.storage.manifests import process_facts
from scpl_ray.storage.phase import Phase

PHASE = "evaluation"


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out prompts of a task, and what asks them: the same prompts for every policy."""

    experiment: Experiment
    """The config; its groups, seed, ``evaluation`` and ``selection`` matter."""
    task: Task
    generator: Generator
    """It serves the policy that is measured."""
    scorer: Scorer
    sampling_bound: float
    """See :attr:`scpl_ray.protocols.Engines.sampling_bound`."""
    report: Callable[[str, Sequence[Completion]], None]
    """Is told of completions that have arrived, with the name of the phase."""

    @functools.cached_property
    def prompts(self) -> list[Query]:
        """The group prompts, equal in number per group, then the neutral ones."""
        settings = self.experiment.evaluation
        return [
            *self.task.group_prompts(settings.prompts_per_group),
            *self.task.neutral_prompts(settings.neutral_prompts),
        ]

    @functools.cached_property
    def aside(self) -> list[Query]:
        """Those that steer selection, none of which is evaluated; empty where nothing is steered."""
        return steering.steering_prompts(self.experiment, self.task.group_prompts, self.prompts)

    @property
    def answers(self) -> int:
        """How many answers are asked of a policy."""
        return self.experiment.evaluation.samples_per_prompt * len(self.prompts) + len(self.aside)

    def measure(self, phase: Phase, base: Weights, policy: Weights, asked: Asked, first: Sequence[Metric]) -> None:
        """Ask the policy that the generator serves, and write prompts, answers, judgements and metrics.

        Args:
            phase: where they are written.
            base: the policy that others are held against: that of round 0.
            policy: the policy that is served.
            asked: what is known of its round besides.
            first: the metrics of round 0; empty in round 0 itself.

        Raises:
            RuntimeError: the engines drew with other weights than the policy's.
            ValueError: likelihoods are not finite.
        """
        through = [] if policy == base else [base]
        found = self._answered(self.prompts, self.experiment.evaluation.samples_per_prompt, through)
        steered = self._answered(self.aside, 1, [])
        before = found.likelihoods[0] if through else None
        passed = self.scorer.negative_log_likelihood
        nats = likelihoods.of_texts(passed, base, policy, found.completions, self.sampling_bound, before)
        phase.facts |= found.seconds
        phase.facts["processes"] = process_facts(self.generator, self.scorer)
        phase.write("prompts", self.prompts, Query)
        phase.write("completions", found.completions, Completion)
        phase.write("judgements", found.judgements, Judgement)
        if self.aside:
            phase.write("steering_prompts", self.aside, Query)
            phase.write("steering_completions", steered.completions, Completion)
            phase.write("steering_judgements", steered.judgements, Judgement)
        rows = measure.evaluate(
            measure.Answers(
                self.prompts, found.completions, found.judgements, nats.base, nats.current, nats.differences
            ),
            asked,
            self.experiment,
            kinds=self.task.kinds,
            confusion=judge_errors(self.task),
            first=first,
            steering=measure.qualities(self.aside, steered.completions, steered.judgements),
        )
        if tasks := self.experiment.evaluation.lm_eval:
            found_there = self.scorer.benchmarks(policy, tasks)
            rows += [Metric(asked.round, None, name, value) for name, value in found_there.items()]
        phase.write("metrics", rows, Metric)

    def _answered(self, prompts: Sequence[Query], samples: int, under: Sequence[Weights]) -> answering.Answered:
        """Answers of the served policy, judged, with their likelihoods under these models."""
        pieces = self.generator.stream(prompts, samples=[samples] * len(prompts), purpose=PHASE)
        passes = [self.scorer.likelihoods(weights) for weights in under]
        report = functools.partial(self.report, PHASE)
        return answering.answered(prompts, samples, pieces, self.scorer.judging(prompts), passes, report)
