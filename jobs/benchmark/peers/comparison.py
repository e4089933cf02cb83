"""The seconds of both ways of doing one round, as a table for a terminal, a Markdown page and a JSON file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scpl_ray.records import Manifest

PHASES = {
    "completions": "completions",
    "scores": "rewards",
    "weights": "training, merged and saved",
    "evaluation": "evaluation",
}
"""The phases of a run that the chain does too, with their word in the table."""
COLUMNS = ("step", "tokens", "chain s", "of it imports", "of it loading", "tokens/s", "scpl s", "tokens/s", "ratio")


@dataclasses.dataclass(frozen=True)
class Step:
    """One process of the chain."""

    phase: str
    """The phase of a run whose work it does."""
    script: str
    """The module of :mod:`jobs.benchmark.peers`."""
    what: str
    """What it does, in words."""
    tokens: int
    """Tokens that it writes (drawing) or reads."""


@dataclasses.dataclass(frozen=True)
class Script(Step):
    """One process of the chain, measured."""

    seconds: float
    """From the start of its process to its end."""
    parts: Mapping[str, float]
    """Seconds of ``imports`` (the start of the process included), ``loading``, ``work`` and ``saving``."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One round by a chain of scripts, and the same round by this project."""

    size: str
    machine: str
    """The kind of machine, in words."""
    model: str
    dtype: str
    round: int
    scripts: tuple[Script, ...]
    ours: Mapping[str, float]
    """Seconds of each phase of the round."""
    whole: float
    """Seconds of the round from the begin of its first phase to the end of its last, with all that lies between."""

    def chain_s(self, phase: str | None = None, without: Sequence[str] = ()) -> float:
        """Seconds of the chain, or of its scripts of one phase, without these parts."""
        return sum(
            script.seconds - sum(script.parts.get(part, 0.0) for part in without)
            for script in self.scripts
            if phase in (None, script.phase)
        )

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long the chain takes: in all, and without parts that a longer script would do once."""
        return {
            "the whole round": self.chain_s() / self.whole,
            "without the imports of the scripts": self.chain_s(without=["imports"]) / self.whole,
            "without their imports and their loading of models": self.chain_s(without=["imports", "loading"])
            / self.whole,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The table's rows as text, in the order of :data:`COLUMNS`."""
        rows = []
        for phase, word in PHASES.items():
            scripts = [script for script in self.scripts if script.phase == phase]
            # of a phase with several scripts the first says how much there is to do: the others read the same texts
            tokens = scripts[0].tokens if scripts else 0
            rows.append(self._row(word, tokens, phase, self.ours.get(phase, 0.0)))
        rest = self.whole - sum(self.ours.get(phase, 0.0) for phase in PHASES)
        rows.append(("queries, selection, data, feedback, and between phases", *[""] * 5, f"{rest:.1f}", "", ""))
        rows.append(self._row("whole round", 0, None, self.whole))
        return rows

    def _row(self, word: str, tokens: int, phase: str | None, ours: float) -> tuple[str, ...]:
        theirs = self.chain_s(phase)
        speeds = [f"{tokens / seconds:,.0f}" if tokens and seconds else "" for seconds in (theirs, ours)]
        loading = theirs - self.chain_s(phase, ["loading"])
        imports = theirs - self.chain_s(phase, ["imports"])
        return (
            word,
            f"{tokens:,}" if tokens else "",
            f"{theirs:.1f}",
            f"{imports:.1f}",
            f"{loading:.1f}",
            speeds[0],
            f"{ours:.1f}",
            speeds[1],
            f"{theirs / ours:.1f}" if ours else "",
        )

    def title(self) -> str:
        """What was compared, and where."""
        return f"{self.size}: round {self.round} of {self.model} in {self.dtype}, on {self.machine}"

    def sentences(self) -> list[str]:
        """The ratios in words."""
        return [f"{words}: {ratio:.1f} times as long" for words, ratio in self.ratios.items()]

    def markdown(self) -> str:
        """The table as a part of a page."""
        lines = [f"**{self.title()}.**", "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|" + "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1)) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        return "\n".join([*lines, "", f"The chain takes, {'; '.join(self.sentences())}.", ""])

    def facts(self) -> dict[str, Any]:
        """Everything that was measured, as JSON values."""
        return dataclasses.asdict(self) | {"ratios": self.ratios}


def round_seconds(manifests: Iterable[Manifest], round_: int) -> tuple[dict[str, float], float]:
    """Seconds of each phase of a round, and of the whole round from its first begin to its last commit."""
    of_round = [manifest for manifest in manifests if manifest.round == round_]
    begin = min(manifest.committed_at - manifest.seconds for manifest in of_round)
    end = max(manifest.committed_at for manifest in of_round)
    return {manifest.phase: manifest.seconds for manifest in of_round}, end - begin
