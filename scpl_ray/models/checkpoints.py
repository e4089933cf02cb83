"""Models and adapters that were trained elsewhere, in any folders, so that they can be measured beside each other.

A folder is a whole model (``config.json`` and safetensors) or a PEFT adapter (``adapter_config.json``), as TRL,
OpenRLHF or axolotl write them. What is measured of one is computed with the tokens of another, so all need one
vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from scpl_ray.config.paths import user_path
from scpl_ray.models import sources
from scpl_ray.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_facts import RUN

OPTION = "--checkpoints"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One model that is to be measured."""

    name: str
    """As it was given."""
    folder: Path
    base: str | None = None
    """Of an adapter: its base model, as ``adapter_config.json`` names it; ``None``: this is a whole model."""
    rank: int = 0
    """Of an adapter: its rank; 0 where it has none."""
    bias: str = "none"
    """Of an adapter: which biases of the base model it replaces, in PEFT's words."""

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of its weights, by file name."""
        return {path.name: sha256(path) for path in sorted(self.folder.glob(sources.WEIGHTS))}


def found(names: Sequence[str], revision: str | None = None, *, trust_remote_code: bool = False) -> list[Checkpoint]:
    """The checkpoints of these names, which are folders or Hub ids; a Hub model is downloaded.

    Args:
        names: as they were given.
        revision: Hub revision of those that are no folders.
        trust_remote_code: whether code that came with a model may run.

    Raises:
        ValueError: one is no model and no adapter, or is given twice, or there are fewer than two.
    """
    if len(names) < 2:
        raise ValueError(
            f"{OPTION} {','.join(names)}: give two or more folders, separated by commas; the first is what the others "
            "are held against"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{OPTION} {','.join(names)}: {twice[0]} is given twice; give each once")
    return [_found(name, revision, trust_remote_code) for name in names]


def _found(name: str, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    folder = user_path(name)
    if not name or (not folder.is_dir() and (folder.exists() or not sources.HUB_ID.fullmatch(name))):
        raise ValueError(
            f"{OPTION}: {name or 'an empty name'}: no such folder; give folders of models or of PEFT adapters"
        )
    if (folder / RUN).is_file():
        policies = [str(path) for path in sorted(folder.glob("rounds/*/weights/*")) if path.is_dir()]
        raise ValueError(
            f"{OPTION}: {name} is the folder of a run, not of a model; give its policies: "
            f"{', '.join(policies) or 'it has none yet'} "
            f"(scpl_ray.read({name!r}).policy(0) says where its base model is)"
        )
    if not (folder / ADAPTER_CONFIG).is_file():
        try:
            there = sources.located(name, OPTION, revision, trust_remote_code)
        except ValueError as error:
            raise ValueError(
                f"{OPTION}: {name}: no such folder, and no model of this name could be had ({error})"
            ) from error
        return Checkpoint(name, sources.checked(there, OPTION, name, trust_remote_code=trust_remote_code).resolve())
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, rank = config["base_model_name_or_path"], int(config.get("r") or 0)
        bias = str(config.get("bias") or "none")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{OPTION}: {name}: its {ADAPTER_CONFIG} cannot be read ({error!r:.200}); save it again"
        ) from error
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(
            f"{OPTION}: {name} has no {ADAPTER_WEIGHTS}; only safetensors are loaded, because a pickle can run any "
            "code when it is read: save the adapter again with a current PEFT"
        )
    return Checkpoint(name, folder.resolve(), str(base), rank, bias)


def base_of(checkpoints: Sequence[Checkpoint], given: str | None, revision: str | None = None, *, trust: bool) -> Path:
    """The folder of the model on which prompts are based: that of the adapters, else the first checkpoint itself.

    Args:
        checkpoints: the models.
        given: where the base model of the adapters lies, if it was said; ``None``: where their configs say.
        revision: its Hub revision.
        trust: whether code that came with it may run.

    Raises:
        ValueError: the adapters are of different base models, or theirs cannot be had.
    """
    adapters = [one for one in checkpoints if one.base is not None]
    if not adapters:
        return checkpoints[0].folder
    bases: dict[Path, Checkpoint] = {}
    for one in adapters:
        name = given if given is not None else str(one.base)
        try:
            there = sources.located(name, "model.name", revision, trust)
        except ValueError as error:
            raise ValueError(
                f"{OPTION}: {one.name} is an adapter of {one.base}, which is not there ({error}); say where that model "
                "lies: model.name=FOLDER"
            ) from error
        bases.setdefault(sources.checked(there, "model.name", name, trust_remote_code=trust).resolve(), one)
    (base, first), *others = bases.items()
    before = Checkpoint(str(base), base).digests if others else {}
    for folder, one in others:
        if Checkpoint(str(folder), folder).digests != before:
            raise ValueError(
                f"{OPTION}: {one.name} is an adapter of {one.base}, {first.name} one of {first.base}, another model; "
                "measure those of each base by themselves"
            )
    return base


def check_vocabulary(checkpoints: Sequence[Checkpoint], base: Path, *, trust_remote_code: bool = False) -> None:
    """Check that all checkpoints read and write the same tokens as the base model.

    Raises:
        ValueError: one has another vocabulary; the message names a token that only one has.
    """
    from scpl_ray.models.tokens import load_tokenizer

    known: dict[str, int] = load_tokenizer(base, trust_remote_code=trust_remote_code).get_vocab()
    for one in checkpoints:
        if one.folder == base or not any((one.folder / name).is_file() for name in sources.TOKENIZER_FILES):
            continue
        own: dict[str, int] = load_tokenizer(one.folder, trust_remote_code=trust_remote_code).get_vocab()
        if own != known:
            token = min(token for token, _ in own.items() ^ known.items())
            raise ValueError(
                f"{OPTION}: {one.name} has another vocabulary than {base} ({len(own):,} tokens, not {len(known):,}; "
                f"{token!r} is one that differs): how likely the answers of one are under the other cannot be told, so "
                "measure checkpoints of each vocabulary by themselves"
            )
