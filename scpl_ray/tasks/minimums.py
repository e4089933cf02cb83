"""The least that a data set must hold for each task, in one place: the loaders check it, and reports and docs say it.

Training, judge and evaluation share nothing, so each of these three parts needs its own.
"""

from __future__ import annotations

OUTLETS_PER_GROUP = 3
"""news: one for each part."""
ARTICLES_PER_TOPIC = 2
"""news: training articles of every group on one topic, where the task's own reward model learns from choices."""
QUESTIONS_PER_PART = 2
"""preference: of the held-out questions of a group, one is asked by the group and one is neutral."""
PROBLEMS_PER_PART = 1
"""maths."""

MINIMUMS: dict[str, tuple[str, ...]] = {
    "news": (
        f"{OUTLETS_PER_GROUP} outlets per group: train, judge and evaluation share none",
        "texts of task.opening_words + task.continuation_words words or more, with blanks between words; shorter ones "
        "are left out",
        "one topic on which evaluation outlets of every group write, for neutral prompts",
        f"without reward.model: one topic with {ARTICLES_PER_TOPIC} training articles of every group",
    ),
    "preference": (
        f"{QUESTIONS_PER_PART} questions of every group in each of train, judge and evaluation: 8 per group at least",
        "half of the held-out questions are asked by their groups, the other half are neutral prompts",
    ),
    "maths": (
        f"{PROBLEMS_PER_PART} problem of every group in each of train, judge and evaluation: 30 per group or more, as "
        "chance deals them out",
        "an answer in every row that can be checked against itself",
    ),
}
"""What a data set needs at least, by ``task.name``."""
NO_NEUTRAL_PROMPTS = {
    "news": "no topic is shared by evaluation outlets of every group; give a coarser topic column with "
    "task.fields={topic: COLUMN}, or more outlets",
    "preference": "no held-out question is left for them; give more rows",
}
"""Why no neutral prompt is possible, and what to do, by ``task.name``; maths makes its own."""
