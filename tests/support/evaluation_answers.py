"""Answers to evaluation prompts, with the judgements that a test chooses."""

from scpl_ray.evaluation import measure
from scpl_ray.records import Completion, Judgement, Query


def answers(kinds: list[str | None]) -> measure.Answers:
    prompts = [Query(f"g{i}", g, "p") for i, g in enumerate(("north", "south"))]
    prompts += [Query(f"n{i}", None, "p") for i in range(len(kinds))]
    completions = [Completion(f"{q.query_id}-s0", q.query_id, 0, 1, 0, (1,), (2, 3), "x y", "stop") for q in prompts]
    judged = [
        Judgement(c.completion_id, k, 0.5, {}) for c, k in zip(completions, ["north", "north", *kinds], strict=True)
    ]
    return measure.Answers(prompts, completions, judged, [(1.0, 2)] * len(prompts), [(0.5, 2)] * len(prompts))
