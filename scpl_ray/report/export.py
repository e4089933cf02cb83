"""What a paper takes from a report: the claims as CSV and LaTeX tables, a methods paragraph, and the references."""

from __future__ import annotations

import csv
import io
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scpl_ray import __version__
from scpl_ray.config import Experiment
from scpl_ray.evaluation.sign_flips import FEWEST
from scpl_ray.report import set_up, text, words
from scpl_ray.report.data import Part
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.run_facts import COMMIT
from scpl_ray.studies import verdicts
from scpl_ray.studies.study import points
from scpl_ray.studies.verdicts import Family

PACKAGE = "scpl_ray"
COLUMNS = (
    "study",
    "question",
    "claim",
    "contrast",
    "metric",
    "direction",
    "margin",
    "estimate",
    "low",
    "high",
    "seeds",
    "not_compared",
    "p_adjusted",
    "verdict",
)
FORMULA = ("=", "+", "-", "@")
"""With what a cell begins that a spreadsheet takes for a formula."""
REFERENCES = r"""@inproceedings{wang-etal-2026-observations,
  title = {Observations and Remedies for Large Language Model Bias in Self-Consuming Performative Loop},
  author = {Wang, Yaxuan and Cai, Zhongteng and Bao, Yujia and Zhang, Xueru and Liu, Yang},
  booktitle = {Proceedings of the 64th Annual Meeting of the Association for Computational Linguistics},
  year = {2026},
  note = {arXiv:2601.05184}
}
@software{scpl_ray,
  title = {scpl\_ray: self-consuming performative loops of language models},
  version = {VERSION},
  year = {2026}
}
@article{holm-1979-simple,
  title = {A Simple Sequentially Rejective Multiple Test Procedure},
  author = {Holm, Sture},
  journal = {Scandinavian Journal of Statistics},
  volume = {6},
  pages = {65--70},
  year = {1979}
}
"""
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}
# in LaTeX's default encoding, OT1, these are other characters
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}


def write(parts: Sequence[Part], folder: Path, *, csv: bool, latex: bool) -> list[Path]:
    """Write the claims of the studies among some parts.

    Args:
        parts: the parts.
        folder: existing folder.
        csv: whether to write ``claims.csv``.
        latex: whether to write ``claims.tex``, ``methods.tex`` and ``references.bib``.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = [row for part, name in zip(parts, _names(parts), strict=True) for row in claims(part, name)]
    written = {"claims.csv": as_csv(rows)} if csv else {}
    if latex:
        paragraphs = "\n\n".join(escaped(methods(part)) for part in parts)
        written |= {
            "claims.tex": as_latex(rows),
            "methods.tex": f"{paragraphs}\n",
            "references.bib": references(*parts),
        }
    for name, content in written.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in written]


def _names(parts: Sequence[Part]) -> list[str]:
    """What tells the studies apart: their names, or the ends of their folders where two have one name."""
    names = [part.study.name if part.study is not None else part.title for part in parts]
    return names if len(set(names)) == len(names) else list(text.short_names([part.source for part in parts]))


def claims(part: Part, name: str) -> Iterator[tuple[str, ...]]:
    """The claims of a part with their verdicts, one row each, in :data:`COLUMNS`; empty where there is no number.

    Args:
        part: the part; one that is no study has no claims.
        name: the name of the study.
    """
    if part.study is None or not part.study.claims:
        return
    for judged in verdicts.judge(part.series, part.study).judged:
        found = judged.verdict
        interval, p = ("", "", ""), ""
        if found is not None:
            interval = (f"{found.estimate:.4g}", f"{found.interval.low:.4g}", f"{found.interval.high:.4g}")
            p = "" if found.p_adjusted != found.p_adjusted else f"{found.p_adjusted:.4g}"
        claim, numbers = judged.claim, judged.numbers
        margin = "" if claim.margin is None else f"{claim.margin:g}"
        asked = (f"{words.measured(judged)}, {numbers.scale}", claim.direction, margin)
        seeds = (str(len(numbers.paired.seeds)), " ".join(map(str, judged.left_out)))
        yield (name, claim.question, judged.name, words.contrast(judged), *asked, *interval, *seeds, p, judged.outcome)


def methods(part: Part) -> str:
    """A paragraph that states what was run, from the records: the set-up, what arms set, the tests, the condition."""
    return f"{stated(part)} {words.condition(part)}"


def stated(part: Part, family: Family | None = None) -> str:
    """The same paragraph, without what its intervals are conditional on.

    Args:
        part: the part.
        family: its claims with their verdicts; ``None``: they are judged here.
    """
    experiments = list(part.experiments.values())
    if not experiments:
        return f"{part.title}: the configs of the runs are not known."
    one = experiments[0]
    asked = (
        f"{_all(experiments, lambda e: str(e.evaluation.prompts_per_group))} held-out prompts per group "
        f"({_all(experiments, _groups)}) and {_all(experiments, lambda e: str(e.evaluation.neutral_prompts))} that "
        f"reveal no group, with {_all(experiments, lambda e: str(e.evaluation.samples_per_prompt))} answers each at "
        f"temperature {_all(experiments, lambda e: f'{e.generation.temperature:g}')}"
    )
    if part.checkpoints:
        names = ", ".join(text.short_names(part.checkpoints))
        return (
            f"{part.title}: we measured {len(part.checkpoints)} models ({names}) on the task "
            f"{text.base_name(one.task.name)}{_made_with(part)}. All were asked the same {asked}, with the same "
            "seed per answer."
        )
    model = (
        "the analytic mode, in which kinds of text are counted instead of written"
        if _simulated(part)
        else f"the model {_all(experiments, lambda e: text.base_name(e.model.name))}"
    )
    sentences = [
        f"{part.title}: we ran {_size(part)} self-consuming rounds (Wang et al., 2026) on the task "
        f"{_all(experiments, lambda e: text.base_name(e.task.name))} with {model}{_made_with(part)}.",
        f"In every round {_all(experiments, lambda e: str(e.queries.prompts_per_round))} queries of the groups "
        f"{_all(experiments, _groups)}, at first in the shares {_all(experiments, _shares)}, got "
        f"{_all(experiments, lambda e: str(e.generation.samples_per_prompt))} completions each at temperature "
        f"{_all(experiments, lambda e: f'{e.generation.temperature:g}')}; selection was "
        f"{_all(experiments, set_up.selection)}, training "
        f"{_all(experiments, lambda e: f'{e.training.objective} ({e.loop.kind})')}, and the next round's shares "
        f"followed the rule {_all(experiments, lambda e: e.feedback.rule)}.",
        f"Rewards were {_all(experiments, set_up.rewards)}. A round trained on {_all(experiments, set_up.data)}.",
        f"Policies were measured on {asked}.",
    ]
    if part.study is not None:
        sentences += set_up.keys(part.study)
    if lacking := words.unfinished(part):
        sentences.append(lacking)
    if part.study is not None and part.study.claims:
        count, places = len(part.study.claims), len(points(part.study))
        at = f", each at {places} points of the axes, which makes {count * places} claims" if places > 1 else ""
        sentences.append(f"{count} claim{'s were' if count > 1 else ' was'} fixed in the study file{at}.")
        sentences += _tests(family or verdicts.judge(part.series, part.study))
    return " ".join(sentences)


def _tests(family: Family) -> Iterator[str]:
    """The tests that were made, as sentences."""
    tested = [one for one in family.judged if one.verdict is not None and one.verdict.p == one.verdict.p]
    count, all_of_them = len(tested), len(tested) == len(family.judged)
    if not tested:
        yield f"None was tested: a test takes {FEWEST} seeds with a finite number in every arm."
        return
    which = "Each" if all_of_them else f"{count} of {len(family.judged)}"
    others = "" if all_of_them else f"; a test takes {FEWEST} seeds with a finite number in every arm"
    yield (
        f"{which} {'was' if all_of_them or count == 1 else 'were'} tested on the differences between arms seed by "
        "seed, by a two-sided sign-flip test whose p-value is at least that of a skewness-corrected t-test; p-values "
        f"are adjusted by Holm's method (1979) over {count} tested claim{'s' if count > 1 else ''} at the 5% "
        f"level{others}."
    )
    scales = {one.numbers.scale for one in tested}
    if "share" in scales:
        yield (
            "Claims about log-odds of a kind were tested as differences in its share, whose mean chance alone does not "
            "move."
        )
    if "distance" in scales:
        yield (
            "Claims about a distance of shares were tested as differences in the distance of the mean shares, together "
            "with a sign-flip test, jointly over kinds, that the mean shares differ at all; the larger p-value counts."
        )
    if any(one.claim.margin is not None for one in tested):
        yield "Claims with a margin were tested against it."


def references(*parts: Part) -> str:
    """The BibTeX entries that paragraphs of :func:`methods` cite, with the versions that made the results."""
    return REFERENCES.replace("VERSION", _version(*parts) or __version__)


def _size(part: Part) -> str:
    """How many arms, seeds and rounds have results, in words."""
    there = [arm for arm in part.arms if arm in part.series.values]
    seeds = sorted({int((part.series.reached(arm) >= 0).sum()) for arm in there})
    rounds = sorted({part.series.last(arm) for arm in there})
    arms = f"{len(there)} arm{'s' if len(there) != 1 else ''}"
    if len(there) < len(part.arms):
        arms += f" (of {len(part.arms)}; the others have no result)"
    each = " each" if len(there) > 1 else ""
    shown = " to ".join(map(str, seeds if len(seeds) < 3 else (seeds[0], seeds[-1])))
    return f"{arms} with {shown} seed{'s' if seeds != [1] else ''}{each} and {' or '.join(map(str, rounds))}"


def _version(*parts: Part) -> str:
    """The versions of this project by which the runs were made; empty where none was noted."""
    return " and ".join(sorted({run.versions[PACKAGE] for p in parts for run in p.runs if PACKAGE in run.versions}))


def _made_with(part: Part) -> str:
    """The version and the commit of this project, as a part of a sentence."""
    commits = sorted({run.began[COMMIT] for run in part.runs if COMMIT in run.began})
    version = f", using {PACKAGE} {_version(part)}".rstrip()
    return version + (f" (commit {' and '.join(commits)})" if commits else "")


def as_latex(rows: Sequence[Sequence[str]]) -> str:
    """Rows of :func:`claims` as a booktabs table, under the names of the studies where there are several.

    A claim stands with what was measured in a line of its own, above its numbers, so that the table fits a page.
    """
    lines = [
        r"% needs \usepackage{booktabs}; on a page of two columns it stands in table*",
        r"\begin{tabular}{p{0.25\linewidth}lrrrl}",
        r"\toprule",
        _wide(r"claim: \emph{metric, round, scale of the difference}"),
        r"contrast & claimed & seeds & difference (95\% interval) & adjusted $p$ & verdict \\",
    ]
    several = len({study for study, *_ in rows}) > 1
    for study, own in itertools.groupby(rows, key=operator.itemgetter(0)):
        lines.append(r"\midrule")
        if several:
            lines.append(rf"\multicolumn{{6}}{{l}}{{\textit{{{escaped(study)}}}}} \\")
        lines.append("\n\\addlinespace\n".join(map(_latex_rows, own)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_rows(row: Sequence[str]) -> str:
    _, _, claim, contrast, metric, direction, margin, estimate, low, high, seeds, without, p, verdict = row
    claimed = f"{direction}, margin {margin}" if margin else direction
    compared = f"{seeds} of {int(seeds) + len(without.split())}" if without else seeds
    interval = f"{estimate} ({low} to {high})" if estimate else "--"
    cells = " & ".join(map(escaped, (contrast, claimed, compared, interval, p or "--", verdict)))
    # no row begins with what the row before it would read as an argument
    return _wide(rf"{escaped(claim)}: \emph{{{escaped(metric)}}}") + "\n" + rf"\raggedright {cells} \\"


def _wide(cell: str) -> str:
    """A row of one cell, whose text is broken into lines."""
    return rf"\multicolumn{{6}}{{p{{0.95\linewidth}}}}{{{cell}}} \\"


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows of :func:`claims` below a row of their names; to a spreadsheet no cell is a formula or holds a control."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_inert(text.copyable(cell)) for cell in row] for row in rows)
    return file.getvalue()


def _inert(cell: str) -> str:
    """A cell with an apostrophe before it if it would be a formula; numbers with a sign stay numbers."""
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def escaped(cell: str) -> str:
    """Plain text for LaTeX."""
    plain = cell.replace(text.MINUS, "-").replace(text.TIMES, "x")
    return "".join(_LATEX.get(character, character) for character in plain)


def _all(experiments: Sequence[Experiment], pick: Callable[[Experiment], str]) -> str:
    """A value that all arms have, or all the values that they have."""
    return " or ".join(dict.fromkeys(pick(experiment) for experiment in experiments))


def _groups(experiment: Experiment) -> str:
    return ", ".join(experiment.groups.names)


def _shares(experiment: Experiment) -> str:
    return ", ".join(f"{share:g}" for share in experiment.groups.shares)


def _simulated(part: Part) -> bool:
    return part.study is not None and part.study.mode == "analytic"
