"""A study that was run, as the documentation keeps it: what its verdicts follow from, its figures, and its table.

The folder ``NAME/`` holds the study file, the results table and the seconds of the commands that ran it, without the
runs. It is a study folder, so that ``scpl report`` reads it, and a test derives the committed table from it again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.configs import CONFIGS
from jobs.pages import on_page
from scpl_ray.report import data, figures, sessions, text, words
from scpl_ray.report.data import Part
from scpl_ray.report.evidence import CARD_FILE
from scpl_ray.storage.files import write_atomically
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.study import STUDY_FILE, Study, dump
from scpl_ray.studies.verdicts import Family, Judged

JUDGE = "judge.json"
"""The card of the judge that all runs share, where their task has one."""
CLAIMS = "claims"
DRAWN = (CLAIMS, "preference", "disparity")
"""The figures that a page shows; that of the claims only where there are several."""
SCALES = {"share": "share of the kind", "distance": "distance of the mean shares"}
"""What the numbers of a claim are where it is not tested in its metric's units."""


def publish(study_dir: Path, pages: Path) -> str:
    """Keep a study beside the page that has a place for it, and write its table there.

    Args:
        study_dir: folder of a study in which no run is missing.
        pages: the folder of the pages, one of which holds ``<!-- study NAME -->`` and ``<!-- end of study NAME -->``;
            the study is kept in its folder ``NAME/``.

    Returns:
        The table.

    Raises:
        StoreError: it is no folder of a study.
        ValueError: a run of the study is missing or not finished, its runs had different judges, an axis holds files by
            their place on this machine, or not exactly one page has a place for the table.
    """
    part = read(study_dir)
    if part.study is None:
        raise ValueError(f"{study_dir}: no study but a run; a page shows studies")
    if part.gaps:
        first = part.gaps[0]
        raise ValueError(
            f"{study_dir}: runs missing or not finished: {len(part.gaps)}, first {first.arm}, seed {first.seed} "
            f"({first.reason}); go on with scpl sweep --resume {shlex.quote(str(study_dir))}"
        )
    cards = {file.read_bytes() for file in study_dir.glob(f"runs/**/{CARD_FILE}")}
    if len(cards) > 1:
        raise ValueError(
            f"{study_dir}: its runs had {len(cards)} judges ({CARD_FILE}); a page shows what one judge told"
        )
    family = verdicts.judge(part.series, part.study)
    found = table(part, family)
    # its folder is not kept, so that the looks at it stand in the study file
    looks = tuple(seeds for seeds in part.looks if seeds != part.looked_at)
    plan = without_folders(part.study).model_copy(update={"interim": looks})
    place = f"study {plan.name}"
    places = [page for page in sorted(pages.glob("*.md")) if f"<!-- {place} -->" in page.read_text()]
    if len(places) != 1:
        raise ValueError(
            f"{pages}: {len(places)} pages hold <!-- {place} -->; write it into the one page that is to show the "
            f"table, and <!-- end of {place} --> on a line below it"
        )
    (page,) = places
    written = on_page(page.read_text(), place, found)
    folder = pages / plan.name
    folder.mkdir(exist_ok=True)
    write_atomically(folder / STUDY_FILE, dump(plan).encode())
    if (study_dir / sessions.FILE).exists():
        write_atomically(folder / sessions.FILE, (study_dir / sessions.FILE).read_bytes())
    results.write(part.table, folder)
    for card in cards:
        write_atomically(folder / JUDGE, card)
    for figure in figures.draw_all(part, part.arms[: figures.MAX_ARMS], family):
        if figure.name in DRAWN and (figure.name != CLAIMS or family.size > 1):
            write_atomically(folder / f"{figure.name}.svg", figure.svg)
    write_atomically(page, written.encode())
    return found


def read(study_dir: Path) -> Part:
    """One study, from its folder or from what is kept of it."""
    (part,) = data.load([study_dir], CONFIGS)
    return part


def table(part: Part, family: Family) -> str:
    """The claims and their verdicts in Markdown, what they cost, and how much base models differ where several are."""
    lines = [
        "| question | claim | measured | difference | 95% interval | adjusted p | found with 80% power | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(judged) for judged in family.judged),
        "",
        f"{_cost(part)} {words.between_bases(part)}".rstrip(),
    ]
    return "\n".join(lines)


def without_folders(plan: Study) -> Study:
    """The study with the names of its files alone: where they lay on the machine is nobody's business.

    Raises:
        ValueError: an axis holds such a file; its values name the runs in every table, so that they stay as they are.
    """

    def named(value: Any) -> Any:
        if isinstance(value, str):
            return Path(value).name if Path(value).is_absolute() else value
        if isinstance(value, Mapping):
            return {key: named(one) for key, one in value.items()}
        return [named(one) for one in value] if isinstance(value, list) else value

    values = plan.model_dump(mode="json")
    for key, points in values["axes"].items():
        if named(points) != points:
            raise ValueError(f"axes.{key} holds files by their place on this machine; make an arm of each, with a name")
    return Study.model_validate(named(values))


def _row(judged: Judged) -> str:
    claim, found = judged.claim, judged.verdict
    scale = SCALES.get(judged.numbers.scale) or text.metric_name(claim.metric, claim.group)
    numbers = ("", "", "", "")
    if found is not None:
        interval = text.interval(found.interval.low, found.interval.high, signed=True)
        detectable = words.detectable(found.minimum_detectable_effect)
        numbers = (text.signed(found.estimate), interval, text.p_value(found.p_adjusted), detectable)
    return f"| {' | '.join((claim.question, judged.name, scale, *numbers, judged.outcome))} |"


def _cost(part: Part) -> str:
    """How many runs, and in how much time, as far as it is on record: a command that was killed left none."""
    runs = len(part.series.seeds) * len(part.arms)
    rounds = max(part.series.last(arm) for arm in part.arms)
    told = f"{len(part.arms)} arms, {len(part.series.seeds)} seeds, {runs} runs of {rounds} rounds"
    timed = sum(one.trials for one in part.sessions)
    if not timed:
        return f"{told}."
    minutes = round(sum(one.prepared_s + one.started_s + one.ran_s for one in part.sessions) / 60)
    return f"{told}, {minutes} minutes." if timed >= runs else f"{told}; {timed} of the runs took {minutes} minutes."
