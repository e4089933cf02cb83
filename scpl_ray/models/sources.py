"""Locating models: built here, converted from a package, from the Hub, or in a folder. Safetensors only."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment
from scpl_ray.config.paths import user_path
from scpl_ray.config.schema import TINY
from scpl_ray.models import sentences, smollm2, tiny_base
from scpl_ray.storage import cache

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
HUB_SECONDS = 10.0
"""Longest wait for the Hub's first response, in seconds."""
SERVER_ERROR = 500
"""The first status of HTTP with which a server says that it cannot answer."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = "*.safetensors"
NOT_THERE = "the folder holds none"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def known_reward_config(experiment: Experiment) -> PreTrainedConfig | None:
    """The config of ``reward.model``, if it is already on this machine; ``None`` also if no model is given."""
    name = experiment.reward.model
    if name is None:
        return None
    return read_config(_on_disk(name, "reward.model", None), "reward.model", name, experiment.model.trust_remote_code)


def found_config(experiment: Experiment) -> PreTrainedConfig | None:
    """The config of a model that is not built from a task's text, if it is already on this machine.

    Raises:
        ValueError: the config cannot be read.
    """
    model = experiment.model
    folder = smollm2.found() if model.name == smollm2.NAME else _on_disk(model.name, "model.name", model.revision)
    return read_config(folder, "model.name", model.name, model.trust_remote_code)


def _on_disk(name: str, key: str, revision: str | None) -> Path | None:
    folder = user_path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(name):
        raise _no_folder(key, name)
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def read_config(folder: Path | None, key: str, name: str, trust_remote_code: bool) -> PreTrainedConfig | None:
    """The config in a folder; ``None`` if ``folder`` is ``None``.

    Raises:
        ValueError: the config cannot be read; the message names the config key ``key`` and its value ``name``.
    """
    if folder is None:
        return None
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{key}: {name} has no config.json that can be read ({' '.join(str(error).split())[:200]}); give a "
            "folder that save_pretrained wrote"
        ) from error
    return config


def resolve_model(experiment: Experiment) -> Path:
    """The folder of a model that is not built here, with its weights; a Hub model is downloaded."""
    model = experiment.model
    if model.name == smollm2.NAME:
        return smollm2.ensure()
    folder = _locate(model.name, "model.name", model.revision, model.trust_remote_code, weights=True)
    return checked(folder, "model.name", model.name, trust_remote_code=model.trust_remote_code)


def resolve_reward_model(experiment: Experiment) -> Path | None:
    """The folder of ``reward.model``; ``None`` if none is given and the run trains its own."""
    name = experiment.reward.model
    if name is None:
        return None
    trust = experiment.model.trust_remote_code
    return checked(
        _locate(name, "reward.model", None, trust, weights=True), "reward.model", name, trust_remote_code=trust
    )


def check_model(experiment: Experiment) -> None:
    """Check that ``model.name`` exists if it is a folder or a package; the Hub is only asked when it is needed.

    Raises:
        ValueError: the model does not exist or cannot be used.
    """
    name = experiment.model.name
    if name == smollm2.NAME:
        smollm2.gguf_file()
    elif not experiment.model.built_here and (user_path(name).exists() or not HUB_ID.fullmatch(name)):
        resolve_model(experiment)


def check_reward_model(experiment: Experiment) -> None:
    """Check that ``reward.model``, if given, has one output or one per group; from the Hub, only the config is read.

    Raises:
        ValueError: there is no such model, or its outputs are different ones.
    """
    name = experiment.reward.model
    if name is None:
        return
    trust = experiment.model.trust_remote_code
    config = read_config(_locate(name, "reward.model", None, trust, weights=False), "reward.model", name, trust)
    assert config is not None
    check_outputs(name, [str(config.id2label[i]) for i in range(config.num_labels)], experiment.groups.names)


def check_hub(name: str, key: str, revision: str | None) -> None:
    """Ask the Hub whether it has a usable model of this name; nothing is downloaded.

    Raises:
        ValueError: it has none, or none with a config, safetensors and a tokenizer, or it cannot be asked.
    """
    files = _hub_files(name, key, revision)
    if "config.json" not in files:
        raise ValueError(f"{key}: {name} has no config.json on the Hub; give the id of a model for transformers")
    if not any(file.endswith(".safetensors") for file in files):
        raise ValueError(
            f"{key}: {name} has no safetensors on the Hub; only safetensors are loaded, because a pickle can run any "
            "code when it is read: use a revision with safetensors"
        )
    if not any(file in files for file in TOKENIZER_FILES):
        raise ValueError(f"{key}: {name} has no tokenizer on the Hub; choose a model that has one")


def download_bytes(name: str, key: str, revision: str | None) -> int:
    """How much would be downloaded from the Hub for a model; 0 for a folder, a package, and what is in its cache.

    Raises:
        ValueError: there is no such model, or the Hub cannot be asked.
    """
    if name in (TINY, smollm2.NAME) or has_weights(name, key, revision):
        return 0
    there = _on_disk(name, key, revision)
    return sum(
        size
        for file, size in _hub_files(name, key, revision).items()
        if "/" not in file and (there is None or not (there / file).is_file())
    )


def has_weights(name: str, key: str, revision: str | None) -> bool:
    """Whether a model's weights need no download; of the Hub's, small files may be here alone, or some of the shards.

    Raises:
        ValueError: there is no such model.
    """
    folder = _on_disk(name, key, revision)
    if folder is None or user_path(name).is_dir():
        return folder is not None
    weights = {path.name for path in folder.glob(WEIGHTS)}
    return bool(weights) and not _shards(folder) - weights


def _hub_files(name: str, key: str, revision: str | None) -> dict[str, int]:
    """Bytes by file of a model on the Hub, of the files that would be downloaded or say what the model is."""
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True, timeout=HUB_SECONDS)
    except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError) as error:
        raise _not_had(key, name, error) from error
    wanted = (*SMALL_FILES, WEIGHTS)
    return {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in wanted)
    }


def check_outputs(name: str, labels: Sequence[str], groups: Sequence[str]) -> None:
    """Raise :class:`ValueError` unless a reward model has one output, or one per group named after the group."""
    if len(labels) != 1 and sorted(labels) != sorted(groups):
        raise ValueError(
            f"reward.model: {name} has {len(labels)} outputs ({', '.join(labels)}); a reward model has one, or one "
            f"per group called as in groups.names ({', '.join(groups) or 'no groups here'}): `scpl reward train` makes "
            "such a model"
        )


def resolve_judge_model(experiment: Experiment) -> Path:
    """The folder of ``task.judge_model``, from which encoder judges and ``scpl reward train`` start.

    Raises:
        ValueError: the packaged encoder is not installed, or there is no such model; see :func:`checked`.
    """
    name, key = experiment.task.judge_model, "task.judge_model"
    if name == sentences.NAME:
        return sentences.package_folder(f"{key} = {name!r}", f"give {key}=FOLDER, an encoder of your own")
    return checked(_locate(name, key, None, False, weights=True), key, name, trust_remote_code=False)


def resolve_tokenizer(experiment: Experiment, texts: Iterable[str]) -> Path:
    """The folder of a model's tokenizer; for a Hub model, only small files are downloaded.

    Args:
        experiment: ``model.name`` and the keys that belong to it are used.
        texts: the task's training text, from which a tiny model's tokenizer is made; other models ignore it.

    Raises:
        ValueError: the model does not exist or cannot be used.
        NotMadeError: in a plan for other machines, there is no tokenizer here.
    """
    model = experiment.model
    if model.built_here:
        return tiny_base.ensure_tokenizer(experiment, texts)
    if model.name == smollm2.NAME:
        return smollm2.tokenizer()
    folder = _locate(model.name, "model.name", model.revision, model.trust_remote_code, weights=False)
    if not has_tokenizer(folder) and cache.may_be_elsewhere(f"the tokenizer of model.name = {model.name}", NOT_THERE):
        raise cache.NotMadeError(f"model.name: {model.name} has no tokenizer here")
    return folder


def checked(folder: Path, key: str, name: str, *, trust_remote_code: bool) -> Path:
    """Return the folder after checking that it holds a complete model that loads without running foreign code.

    Raises:
        ValueError: config, weights or tokenizer are missing or broken, the weights are pickles, the folder holds only
            an adapter, or the model needs its own code and ``trust_remote_code`` is false.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ValueError(f"{key}: {name} is an adapter; merge it into its base model and give that folder")
        raise ValueError(f"{key}: {name} has no config.json; give a folder that save_pretrained wrote")
    weights = sorted(folder.glob(WEIGHTS))
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if not weights and (pickles or not cache.may_be_elsewhere(f"the weights of {key} = {name}", NOT_THERE)):
        found = f"only {', '.join(pickles[:3])}" if pickles else "no weights"
        raise ValueError(
            f"{key}: {name} holds {found}; only safetensors are loaded, because a pickle can run any code when it is "
            "read: convert it with save_pretrained on a machine where you trust it, or use a revision with safetensors"
        )
    if weights:
        _check_weights(folder, weights, key, name)
    if not has_tokenizer(folder) and not cache.may_be_elsewhere(f"the tokenizer of {key} = {name}", NOT_THERE):
        raise ValueError(f"{key}: {name} has no tokenizer; save it into the same folder with save_pretrained")
    if not trust_remote_code:
        _check_architecture(folder, key, name)
    return folder


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


def _check_weights(folder: Path, weights: Sequence[Path], key: str, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    wanted = _shards(folder)
    if missing := sorted(wanted - {path.name for path in weights}):
        raise ValueError(f"{key}: {name} lacks {', '.join(missing[:3])} of {len(wanted)} shards; copy it again")
    for path in weights:
        try:
            with safe_open(path, framework="np") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{key}: {path} is damaged ({error}); copy or download it again (git-lfs leaves such stubs)"
            ) from error


def _shards(folder: Path) -> set[str]:
    """The files that a model's weights are split into, according to their index; none without one."""
    index = folder / "model.safetensors.index.json"
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()


def _check_architecture(folder: Path, key: str, name: str) -> None:
    from transformers import CONFIG_MAPPING

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{key}: {name} is of model_type {kind!r}, which transformers does not know; its own code would have to "
            "run: set model.trust_remote_code=true if you trust it, or choose another model"
        )


def _no_folder(key: str, name: str) -> ValueError:
    return ValueError(f"{key}: {name}: no such folder; give a folder with a model, a Hub id, or {smollm2.NAME}")


def located(name: str, key: str, revision: str | None, trust_remote_code: bool) -> Path:
    """The folder of a model with its weights; a Hub model is downloaded.

    Raises:
        ValueError: there is no such model; the message names ``key``.
    """
    return _locate(name, key, revision, trust_remote_code, weights=True)


def _locate(name: str, key: str, revision: str | None, trust_remote_code: bool, *, weights: bool) -> Path:
    """The local folder itself, or the folder of a downloaded snapshot of a Hub model."""
    folder = user_path(name)
    if folder.is_dir():
        return folder.absolute()
    if folder.exists() or not HUB_ID.fullmatch(name):
        raise _no_folder(key, name)
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*SMALL_FILES, *([WEIGHTS] if weights else []), *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                etag_timeout=HUB_SECONDS,
            )
        )
    except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError) as error:
        raise _not_had(key, name, error) from error


def _not_had(key: str, name: str, error: Exception) -> ValueError:
    """The error of a model that is neither here nor could be had from the Hub."""
    reason = " ".join(str(error).split())[:300]
    all_of_it = f"{key} = {name}: its config, weights and tokenizer"
    if not _answered(error) and cache.may_be_elsewhere(all_of_it, f"the Hugging Face Hub was not reached: {reason}"):
        return cache.NotMadeError(all_of_it)
    return ValueError(
        f"{key}: {name!r} is no folder here and could not be had from the Hugging Face Hub ({reason}); give the "
        f"folder of a copy instead: {key}=FOLDER (for SmolLM2-135M-Instruct also model.name={smollm2.NAME})"
    )


def _answered(error: Exception) -> bool:
    """Whether the Hub itself said no, or would to any who ask; otherwise it was not reached."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        return bool(error.response.status_code < SERVER_ERROR)
    return isinstance(error, ValueError)
