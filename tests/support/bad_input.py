"""Bad configs, data files and folders: the arguments of a command, and the files that it reads."""

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import maths_data, news_data

STRICT = "task.max_dropped=0"
"""One bad row is enough for an error."""
NEWS = ("run", "task.name=news", "groups.names=[left, right]", "model.name=tiny", STRICT, "task.data=d.jsonl")
MATHS = (
    "run",
    "task.name=maths",
    "groups.names=[farm, shop]",
    "task.fields={group: source}",
    STRICT,
    "task.data=d.jsonl",
)
PAIRS = ("run", "task.name=preference", "groups.names=[a, b]", "model.name=tiny", STRICT, "task.data=d.jsonl")


@dataclasses.dataclass(frozen=True)
class Bad:
    """One thing that a user may get wrong."""

    arguments: Sequence[str]
    files: Mapping[str, bytes | str]
    """The content of files in the working folder, by name."""


def lines(rows: Sequence[Mapping[str, Any] | str]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def news(**changed: Any) -> list[dict[str, Any]]:
    """A small corpus whose second row has other values; ``...`` removes the field."""
    rows = news_data.rows()
    rows[1] = {key: value for key, value in {**rows[1], **changed}.items() if value is not ...}
    return rows


def problems(**changed: Any) -> list[dict[str, Any]]:
    rows = maths_data.rows()
    rows[1] = {key: value for key, value in {**rows[1], **changed}.items() if value is not ...}
    return rows


def yaml(text: str) -> Bad:
    return Bad(("run", "c.yaml"), {"c.yaml": text})


def keys(*overrides: str) -> Bad:
    return Bad(("run", *overrides), {})


def on_news(rows: Sequence[Mapping[str, Any] | str]) -> Bad:
    return Bad(NEWS, {"d.jsonl": lines(rows)})


def on_maths(rows: Sequence[Mapping[str, Any] | str]) -> Bad:
    return Bad(MATHS, {"d.jsonl": lines(rows)})


def on_pairs(rows: Sequence[Mapping[str, Any] | str]) -> Bad:
    return Bad(PAIRS, {"d.jsonl": lines(rows)})


PAIR = {"group": "a", "chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go"}
SAFETENSORS = struct.pack("<Q", 2) + b"{}"
CASES: dict[str, Bad] = {
    # config files
    "no such file": Bad(("run", "nowhere.yaml"), {}),
    "a folder": Bad(("run", "."), {}),
    "not YAML": yaml("loop: [1"),
    "not UTF-8": Bad(("run", "c.yaml"), {"c.yaml": b"name: \xff"}),
    "a list": yaml("- loop"),
    "a key twice": yaml("loop: {rounds: 1, rounds: 2}"),
    "an alias": yaml("a: &a 1\nb: *a"),
    "a tag": yaml("name: !!python/object/apply:os.system [true]"),
    "too deep": yaml("a: " + "[" * 40 + "]" * 40),
    "too large": yaml("name: " + "x" * (1 << 20)),
    "a number as key": yaml("1: 2"),
    "a section as number": yaml("loop: 3"),
    # keys and values
    "an unknown key": keys("loop.roundss=3"),
    "an unknown section": keys("lopp.rounds=3"),
    "a key without its section": keys("rounds=3"),
    "no equals sign": keys("loop.rounds=3", "loop.kind"),
    "text for a number": keys("loop.rounds=many"),
    "a fraction for a count": keys("loop.rounds=2.5"),
    "zero rounds": keys("loop.rounds=0"),
    "a number for text": keys("name=3"),
    "NaN": keys("feedback.beta=.nan"),
    "infinity": keys("training.learning_rate=.inf"),
    "an unknown choice": keys("loop.kind=circular"),
    "an unknown strategy": keys("selection.strategy=best"),
    "an unknown rule": keys("feedback.rule=magic"),
    "an unknown task": keys("task.name=poetry"),
    "an unknown preset": keys("preset=paper"),
    "a preset and a key against it": keys("preset=retraining", "loop.kind=incremental"),
    "a preset in a file and a key against it": yaml("preset: retraining-real\ncycle: {real_share: 0.1}"),
    "a name that is a path": keys("name=../../b"),
    "no value": keys("loop.rounds="),
    "text for a section": keys("groups=foo"),
    "text for an adapter": keys("model.lora=none"),
    "a number for a list": keys("groups.shares=0.5"),
    "a word for words or a list": keys("selection.target=balance"),
    "a list that the shell cut": keys("groups.names=[a,", "b]"),
    "a mapping that the shell cut": keys("reward.terms={model:", "1.0}"),
    "a dotted key in a file": yaml("loop.rounds: 3"),
    "an unknown key like no other": keys("xyz=1"),
    "a negative seed": keys("seed=-1"),
    "one group": keys("groups.names=[one]", "groups.shares=[1.0]"),
    "shares that do not sum to 1": keys("groups.shares=[0.9, 0.9]"),
    "three shares for two groups": keys("groups.shares=[0.4, 0.3, 0.3]"),
    "a group twice": keys("groups.names=[a, a]"),
    "a schedule without its step": keys("feedback.rule=schedule"),
    "a step that does not sum to 0": keys("feedback.rule=schedule", "feedback.step=[0.1, 0.1]"),
    "a custom rule without a function": keys("feedback.rule=custom"),
    "a custom rule that is not there": keys("feedback.rule=custom", "feedback.function=nowhere:rule"),
    "best of more than are drawn": keys("selection.strategy=best_of_n", "selection.best_of=9"),
    "an adapter of full weights": keys("generation.refresh=adapter", "model.lora=null"),
    "even text of prompts without marks": keys("task.real_text=even", "task.marker_strength=0.04"),
    "no reward term": keys("reward.terms={}"),
    "several problems at once": keys("loop.rounds=0", "seed=-1", "lopp=3"),
    "too many workers": keys("training.workers=64"),
    "a model that is no folder": keys("model.name=./nowhere", "task.name=news", "task.data=d.jsonl"),
    "a model that is a pickle": Bad(
        ("run", "model.name=."), {"config.json": '{"model_type": "llama"}', "pytorch_model.bin": "x"}
    ),
    "a model without weights": Bad(("run", "model.name=."), {"config.json": '{"model_type": "llama"}'}),
    "a model that is an adapter": Bad(("run", "model.name=."), {"adapter_config.json": "{}"}),
    "a model with code of its own": Bad(
        ("run", "model.name=."),
        {"config.json": '{"model_type": "mine"}', "model.safetensors": SAFETENSORS, "tokenizer.json": "{}"},
    ),
    "a model with damaged weights": Bad(
        ("run", "model.name=."), {"config.json": '{"model_type": "llama"}', "model.safetensors": "version https://git"}
    ),
    "a reward model that is not there": keys("reward.model=./nowhere"),
    # data files
    "no data": Bad(NEWS[:-1], {}),
    "no such data": Bad(NEWS, {}),
    "a Hub data set without a network": Bad((*NEWS[:-1], "task.data=someone/something"), {}),
    "an empty file": Bad(NEWS, {"d.jsonl": ""}),
    "data that is not JSON": on_news([*news()[:1], '{"id": ']),
    "a row that is a list": on_news([*news()[:1], "[1]"]),
    "data that is not UTF-8": Bad(NEWS, {"d.jsonl": lines(news()).encode() + b'{"id": "\xff"}'}),
    "a NUL byte": Bad(NEWS, {"d.jsonl": lines(news()[:1]) + '{"id": "\x00"}\n'}),
    "a line of 11 MB": on_news([*news()[:1], json.dumps({"text": "x" * 11_000_000})]),
    "a missing field": on_news(news(text=...)),
    "an empty text": on_news(news(text=" ")),
    "a number for a text": on_news(news(text=["a"])),
    "an id twice": on_news(news(id="left-0-0")),
    "one label only": on_news([row for row in news() if row["label"] == "left"]),
    "a group never seen": Bad((*NEWS[:2], "groups.names=[left, center]", *NEWS[3:]), {"d.jsonl": lines(news())}),
    "too few outlets": on_news(news_data.rows(outlets=2)),
    "an unknown part": on_news(news(part="training")),
    "a part in some rows only": on_news(news(part="train")),
    "a field that the task has not": Bad((*NEWS, "task.fields={body: text}"), {"d.jsonl": lines(news())}),
    "a suffix that is not read": Bad((*NEWS[:-1], "task.data=d.txt"), {"d.txt": "x"}),
    "a CSV without a header": Bad((*NEWS[:-1], "task.data=d.csv"), {"d.csv": "a,a\n1,2\n"}),
    "a Parquet file that is none": Bad(
        (*NEWS[:-1], "task.data=d.parquet"), {"d.parquet": b"PAR1" + struct.pack("<I", 9) + b"PAR1"}
    ),
    "problems without answers": on_maths([{**row, "answer": None, "solution": None} for row in problems()]),
    "answers that are whole texts": on_maths([{**row, "answer": "It is 5. Or 6."} for row in problems()]),
    "one group of problems": on_maths([row for row in problems() if row["source"] == "farm"]),
    "a pair without its rejected": on_pairs([PAIR, {k: v for k, v in PAIR.items() if k != "rejected"}]),
    "pairs of one group": on_pairs([PAIR, PAIR]),
    "half a character": on_news([*news()[:1], r'{"label": "left", "text": "\ud83d"}', *news()[2:]]),
    "half a character in a text": on_news(news(text="a \ud83d b")),
    "an integer of thousands of digits": on_news([*news()[:1], f'{{"text": {"9" * 5000}}}', *news()[2:]]),
    "a key twice in a row": on_news([*news()[:1], '{"text": "a", "text": "b"}', *news()[2:]]),
    "more odd rows than are dropped": Bad(
        (*NEWS, "task.max_dropped=0.1"),
        {"d.jsonl": lines([{**r, "text": None} if i % 5 else r for i, r in enumerate(news())])},
    ),
    "every text too short": on_news([{**row, "text": " ".join(row["text"].split()[:30])} for row in news()]),
    "a condition that is none": Bad((*NEWS, "task.where=label = 'left'"), {"d.jsonl": lines(news())}),
    "a condition that runs code": Bad((*NEWS, "task.where=label.__class__"), {"d.jsonl": lines(news())}),
    "a condition on no column": Bad((*NEWS, "task.where=lable != 'left'"), {"d.jsonl": lines(news())}),
    "a condition that nothing meets": Bad((*NEWS, "task.where=label == 'middle'"), {"d.jsonl": lines(news())}),
    "a split of a file": Bad((*NEWS, "task.split=train"), {"d.jsonl": lines(news())}),
    "a quote that is never closed": Bad((*NEWS[:-1], "task.data=d.csv"), {"d.csv": 'label,text\na,"b\nc,d\n'}),
    "UTF-16 that does not say so": Bad(NEWS, {"d.jsonl": lines(news()).encode("utf-16-le")}),
    "a compressed file": Bad((*NEWS[:-1], "task.data=d.jsonl.gz"), {"d.jsonl.gz": b"\x1f\x8b"}),
    "groups that YAML reads as truth values": keys("groups.names=[yes, no]"),
    "a look at no data": Bad(("data", "check", "d.jsonl", "--task", "news"), {}),
    "a look at data of a task that has none": Bad(("data", "check", "d.jsonl", "--task", "language"), {}),
    # folders and studies
    "resume nothing": Bad(("run", "--resume", "missing"), {}),
    "resume something else": Bad(("run", "--resume", "."), {"config.yaml": "name: x"}),
    "resume another version": Bad(("run", "--resume", "."), {"config.yaml": "name: x", "run.json": '{"format": 99}'}),
    "a run directory that is full": Bad(("run", "--run-dir", "."), {"holiday.jpg": "x"}),
    "a study that is not there": Bad(("sweep", "study_paper_tinny"), {}),
    "a study to run": Bad(("run", "s.yaml"), {"s.yaml": "name: s\ntitle: t\narms: {a: {}}"}),
    "a built-in study to run": Bad(("run", "study_paper_tiny"), {}),
    "a run to sweep": Bad(("sweep", "c.yaml"), {"c.yaml": "name: c\nseed: 1\nloop: {rounds: 1}"}),
    "a built-in config to sweep": Bad(("sweep", "maths_tiny"), {}),
    "a study without a name": Bad(("sweep", "s.yaml"), {"s.yaml": "seeds: 3"}),
    "a study with an unknown key": Bad(("sweep", "s.yaml"), {"s.yaml": "name: s\nsedes: 3"}),
    "resume a study as a run": Bad(("run", "--resume", "."), {"study.yaml": "name: s"}),
    "resume a run as a study": Bad(("sweep", "--resume", "."), {"run.json": "{}"}),
    "a study with an unknown arm": Bad(
        ("sweep", "s.yaml"),
        {"s.yaml": "name: s\narms: {a: {}, b: {}}\nclaims: [{name: c, metric: m, contrast: {a: 1, z: -1}}]"},
    ),
    "a study with an unknown metric": Bad(
        ("sweep", "s.yaml", "--power"),
        {
            "s.yaml": "name: s\narms: {a: {}, b: {feedback.rule: static}}\nclaims:\n"
            "  - {name: c, metric: disparate_gapp, contrast: {a: 1, b: -1}}\n"
            "  - {name: d, metric: zzqq, contrast: {a: 1, b: -1}}\n"
        },
    ),
    "a study with an axis that is no list": Bad(
        ("sweep", "s.yaml"), {"s.yaml": "name: s\naxes: {loop.kind: retraining}"}
    ),
    "a key that every arm of a study sets": Bad(
        ("sweep", "s.yaml", "feedback.rule=linear"),
        {"s.yaml": "name: s\narms: {a: {feedback.rule: static}, b: {feedback.rule: softmax}}"},
    ),
    "a key that an axis of a study sets": Bad(
        ("sweep", "s.yaml", "loop.kind=retraining"), {"s.yaml": "name: s\naxes: {loop.kind: [retraining, incremental]}"}
    ),
    "the state of another folder": Bad(("status", "."), {"holiday.jpg": "x"}),
    "a log with other columns": Bad(("measure", "--log", "l.csv"), {"l.csv": "date,region\n2026-01-01,a\n"}),
    "data of an unknown task": Bad(("data", "check", "d.csv", "--task", "new"), {"d.csv": "label\na\n"}),
    "a study with a bad arm": Bad(("sweep", "s.yaml"), {"s.yaml": "name: s\narms: {a: {loop.kind: foo}}"}),
    "a sweep of nothing": Bad(("sweep",), {}),
    "resume a study that is none": Bad(("sweep", "--resume", "."), {}),
    "a report of nothing": Bad(("report", "missing"), {}),
    "a fit to no run": Bad(("simulate", "--from", "missing"), {}),
    "a judge of the built-in language": Bad(("judge", "train", "--output", "j"), {}),
    "an output that is there": Bad(("init", "c.yaml"), {"c.yaml": "name: x"}),
}


def write(case: Bad, folder: Path) -> None:
    for name, content in case.files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
