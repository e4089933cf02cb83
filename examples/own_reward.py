"""A reward term of your own: the built-in language, and a term that rewards short sentences.

    python examples/own_reward.py --dry-run
    python examples/own_reward.py 'reward.terms={brevity: 1.0, model: 0.5}' loop.rounds=2

are ``scpl run`` on this task; any options and keys of ``scpl run`` may follow. ``--resume RUN_DIR`` with the same
``reward.terms`` continues a run, which ``scpl run`` itself cannot, because it does not know the task. Without the term
``model`` no reward model is trained.
"""

from __future__ import annotations

import sys

from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.records import Query
from scpl_ray.tasks import TASKS, TaskKind
from scpl_ray.tasks.language.task import Language

LONG = 20
"""Words from which on a sentence is not brief at all."""


class BriefLanguage(Language):
    """The built-in language with one more rule term."""

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """The terms of the language and ``brevity``: 1 for an empty text, falling to 0 at :data:`LONG` words."""
        brevity = max(0.0, 1.0 - len(text.split()) / LONG)
        return super().rule_terms(query, text) | {"brevity": brevity}


def build(experiment: Experiment) -> BriefLanguage:
    """The task of an experiment."""
    return BriefLanguage(experiment.groups.names, experiment.task.marker_strength)


if __name__ == "__main__":
    TASKS["brief"] = TaskKind(meaning="sentences, the shorter the better", builder="__main__:build", reads_data=False)
    app(["run", "task.name=brief", "reward.terms={brevity: 1.0}", *sys.argv[1:]])
