"""What a task's own code says of texts: the rule terms of a reward, or the opinion of its judge."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from jobs.benchmark.peers.clock import Clock, main


def read(order: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Rule terms or qualities of texts.

    Args:
        order: ``task`` (file with the pickled task), ``judge`` (whether the judge is asked, else the rules), and
            ``texts``: of each its ``query`` (the fields of a :class:`~scpl_ray.records.Query`), ``id`` and ``text``.
        clock: gets ``imports``, ``loading`` and ``work``.
    """
    from scpl_ray.records import Query

    clock.mark("imports")
    task = pickle.loads(Path(order["task"]).read_bytes())  # written by the process that started this one
    clock.mark("loading")
    work = [(Query(**one["query"]), one["id"], one["text"]) for one in order["texts"]]
    if order["judge"]:
        found = [judgement.quality for judgement in task.judge(work)]
    else:
        found = [task.rule_terms(query, text) for query, _, text in work]
    clock.mark("work")
    return {"found": found}


if __name__ == "__main__":
    main(read)
