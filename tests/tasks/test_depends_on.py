"""What tasks are built from is said in :data:`scpl_ray.tasks.DEPENDS_ON`; here it is compared with the builders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scpl_ray import tasks
from scpl_ray.config import Experiment, Section
from scpl_ray.config.agreement import agreement
from scpl_ray.judges import encoder
from scpl_ray.tasks.preference import judge as preference_judge
from tests.support import maths_data, news_data, preference_data
from tests.support.tiny_models import save_model

SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "language": (None, {}),
    "maths": (
        maths_data.rows,
        {"groups": {"names": list(maths_data.SOURCES)}, "task": {"fields": {"group": "source"}}},
    ),
    "news": (news_data.rows, {"groups": {"names": ["left", "right"]}}),
    "news by encoder": (
        news_data.rows,
        {"groups": {"names": ["left", "right"]}, "task": {"judge": "encoder"}},
    ),
    "preference": (
        preference_data.responses,
        {
            "groups": {"names": list(preference_data.GROUPS), "shares": [0.5, 0.25, 0.25]},
            "reward": {"terms": {"own_preference": 1.0}},
        },
    ),
    "preference of pairs": (
        preference_data.pairs,
        {"groups": {"names": list(preference_data.GROUPS[:2])}, "reward": {"terms": {"own_preference": 1.0}}},
    ),
}


class Watched:
    """A section that writes down the keys that are read of it; whoever calls a method of it has read all of it."""

    def __init__(self, section: Section, read: set[str], prefix: str = "") -> None:
        self._section, self._read, self._prefix = section, read, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        if name not in type(self._section).model_fields:
            self._read.add(self._prefix.removesuffix(".") or "everything")
        elif isinstance(value, Section):
            return Watched(value, self._read, f"{self._prefix}{name}.")
        else:
            self._read.add(f"{self._prefix}{name}")
        return value


def declared(key: str) -> bool:
    return any(key == known or key.startswith(f"{known}.") for known in tasks.DEPENDS_ON)


def experiment_of(case: str, root: Path, model: str) -> Experiment:
    make, more = SETTINGS[case]
    values: dict[str, Mapping[str, Any]] = {
        "task": {"name": case.split()[0], "judge_model": str(root / "judge"), "max_prompt_tokens": 90},
        "model": {"name": model},
        "generation": {"max_new_tokens": 32},
        "evaluation": {"prompts_per_group": 3, "neutral_prompts": 4},
    }
    if make is not None:
        source = news_data.write_jsonl(root / "rows.jsonl", make())
        values["task"] = {**values["task"], "data": str(source)}
        save_model(root / "judge", "llama")
    return Experiment.model_validate(
        {**values, **{name: {**values.get(name, {}), **section} for name, section in more.items()}}
    )


@pytest.mark.parametrize(
    ("case", "model"), [*((case, "a folder") for case in SETTINGS), *((case, "tiny") for case in ("maths", "news"))]
)
def test_builders_read_only_what_is_declared(
    case: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoder, "FROZEN_LAYERS", 0)
    monkeypatch.setattr(encoder, "WINDOWS", 48)
    monkeypatch.setattr(preference_judge, "FROZEN_LAYERS", 0)
    monkeypatch.setattr(preference_judge, "STEPS", 3)
    name = model if model == "tiny" else str(save_model(tmp_path / "model", "llama"))
    experiment = experiment_of(case, tmp_path, name)
    read: set[str] = set()
    watched: Any = Watched(experiment, read)
    tasks.TASKS[experiment.task.name].build(watched)
    assert "groups.names" in read
    assert sorted(key for key in read if not declared(key)) == []


def test_every_declared_key_is_one() -> None:
    one = agreement(Experiment(), tasks.DEPENDS_ON)
    assert agreement(Experiment(seed=7, name="other"), tasks.DEPENDS_ON) == one
    assert all(f'"{key}"' in one for key in tasks.DEPENDS_ON)
    with pytest.raises(KeyError, match="no_such_key"):
        agreement(Experiment(), ["task.no_such_key"])
