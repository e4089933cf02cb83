"""``scpl push``: a policy of a run and its model card for the Hub; without ``--yes`` nothing leaves this machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from rich.console import Console

from jobs.configs import CONFIGS
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.credentials import masked
from scpl_ray.models import smollm2, sources
from scpl_ray.report import data, model_card
from scpl_ray.storage import inside, manifests
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader

WEIGHTS = "weights"


class Hub(Protocol):
    """Where a folder is uploaded to."""

    def upload(self, folder: Path, repo: str, message: str, *, public: bool) -> str:
        """Put a folder in the place of what a model repository holds, which is made, private, unless it exists.

        Args:
            folder: what is uploaded.
            repo: ``OWNER/NAME``.
            message: of the commit.
            public: whether it may be a repository that everybody can read.

        Returns:
            The commit's address.
        """
        ...


class HuggingFace:
    """The Hugging Face Hub, with the token of ``hf auth login`` or ``HF_TOKEN``."""

    def upload(self, folder: Path, repo: str, message: str, *, public: bool) -> str:
        """See :meth:`Hub.upload`.

        Raises:
            StoreError: the Hub cannot be reached, or refuses; or everybody can read the repository.
        """
        import httpx2
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError

        api = huggingface_hub.HfApi()
        try:
            # one that exists stays as public as it is
            api.create_repo(repo, private=True, exist_ok=True)
            if not public and not api.repo_info(repo).private:
                raise StoreError(
                    f"--repo {repo}: everybody can read this repository, so nothing was uploaded; make it private in "
                    "its settings, name another, or add --public if that is meant"
                )
            # An adapter that an earlier push left beside a whole model would be loaded in its place. The client keeps
            # .gitattributes, and the history what is deleted.
            done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, delete_patterns="*")
        except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError) as error:
            reason = masked(" ".join(str(error).split())[:300])
            raise StoreError(
                f"--repo {repo}: could not be uploaded ({reason}); log in with `hf auth login`, or set HF_TOKEN, as "
                "somebody who may write there"
            ) from error
        return str(done.commit_url)


def push(
    run_dir: Path,
    repo: str,
    round_: int | None,
    console: Console,
    *,
    yes: bool,
    public: bool = False,
    hub: Hub | None = None,
) -> None:
    """Show what would be uploaded of a policy, and upload it if told to.

    Args:
        run_dir: the run.
        repo: ``OWNER/NAME``.
        round_: the round that trained the policy; ``None``: the last one.
        console: where it is printed.
        yes: whether to upload.
        public: whether the repository may be one that everybody can read.
        hub: where to; ``None``: the Hugging Face Hub.

    Raises:
        ConfigError: ``repo`` is no name of a repository.
        StoreError: the run has no such policy, or it could not be uploaded.
        ValueError: a model cannot be read.
    """
    _check_name(repo)
    reader, experiment = Reader.open(run_dir)
    t = _round(reader, experiment, round_)
    (part,) = data.load([run_dir], CONFIGS, {run_dir.resolve(): str(run_dir)})
    base = hub_id(experiment)
    with tempfile.TemporaryDirectory(prefix="scpl-push-") as scratch:
        folder = Path(scratch) / "policy"
        adapter = staged(reader, experiment, t, base, folder)
        card = masked(model_card.card(part, t, base=base, adapter=adapter))
        (folder / model_card.FILE).write_text(card, encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        console.print(
            f"{repo}: round {t} of {run_dir}, {'a PEFT adapter' if adapter else 'a whole model'}", markup=False
        )
        for path in files:
            console.print(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes", markup=False, highlight=False)
        console.print(f"  {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes", markup=False)
        console.print(f"{model_card.FILE}:\n{card}", markup=False, highlight=False)
        if not yes:
            console.print(
                f"nothing was uploaded; add --yes to upload this to {repo}, which is made private if it is new; other "
                "files are deleted there, and stay in its history",
                markup=False,
            )
            return
        message = f"Round {t} of {experiment.name}, by scpl_ray"
        address = (hub or HuggingFace()).upload(folder, repo, message, public=public)
        console.print(f"uploaded: {address}", markup=False)


def hub_id(experiment: Experiment) -> str | None:
    """The base model's id on the Hub; ``None``: it was built or converted here, or is a folder."""
    name = experiment.model.name
    there = sources.HUB_ID.fullmatch(name) and not user_path(name).exists()
    return name if there and not experiment.model.built_here and name != smollm2.NAME else None


def staged(reader: Reader, experiment: Experiment, round_: int, base: str | None, folder: Path) -> bool:
    """Put the files of a policy together: an adapter where its base model is on the Hub, else the whole model.

    Args:
        reader: the run.
        experiment: its config.
        round_: the round that trained the policy.
        base: the base model's id on the Hub.
        folder: is made.

    Returns:
        Whether it is an adapter.

    Raises:
        StoreError: the policy's files are gone.
        ValueError: the base model cannot be read.
    """
    if base is not None and _copied(reader, round_, "adapter", folder):
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": base, "revision": experiment.model.revision}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return True
    adapter = folder.parent / "adapter"
    if _copied(reader, round_, "model", folder):
        return False
    if not _copied(reader, round_, "adapter", adapter):
        raise StoreError(
            f"{reader.name}: the weights of round {round_} are not there any more; runs that are to be shared keep "
            "theirs with store.keep=all"
        )
    _merge(reader.base(), adapter, folder)
    return False


def _copied(reader: Reader, round_: int, what: str, folder: Path) -> bool:
    """Copy a folder of the weights of a round, as its manifest lists it; returns whether it is there.

    Nothing else is copied: a folder that was received may hold links to what its reader would not share.

    Raises:
        StoreError: a file is missing, a link, or not what the run wrote.
    """
    manifest = reader.manifest(round_, WEIGHTS)
    listed = manifest.files if manifest is not None else {}
    names = [n for n in listed if n.startswith(f"{what}/") and manifest is not None and n not in manifest.deleted]
    for name in names:
        place = f"{manifests.phase_folder(round_, WEIGHTS)}/{name}"
        target = folder / PurePosixPath(name).relative_to(what)
        try:
            # links and names that lead out of the run are refused
            with os.fdopen(inside.open_below(reader.root, place), "rb") as source:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        except OSError as error:
            raise StoreError(f"{reader.root / place}: {error.strerror}; restore it") from error
        if sha256(target) != listed[name]["sha256"]:
            raise StoreError(f"{reader.root / place}: not what the run wrote (SHA-256 differs); restore it")
    return bool(names)


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    import torch

    from scpl_ray.models.adapters import merge_adapter

    merge_adapter(base, adapter, folder, torch.float32, trust_remote_code=False)


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--repo {repo}: {' '.join(str(error).split())}; give OWNER/NAME") from error
    if "/" not in repo:
        raise ConfigError(f"--repo {repo}: whose repository is it? give OWNER/NAME")


def _round(reader: Reader, experiment: Experiment, round_: int | None) -> int:
    """The round whose policy is meant.

    Raises:
        StoreError: it trained none.
    """
    if reader.checkpoints:
        raise StoreError(f"{reader.name}: holds measured checkpoints, no policies; give the folder of a run")
    rounds = range(1, experiment.loop.rounds + 1)
    done = [
        t for t in rounds if reader.manifest(t, WEIGHTS) is not None and reader.manifest(t, "evaluation") is not None
    ]
    if not done:
        raise StoreError(f"{reader.name}: no round has trained and measured a policy yet; let the run go on")
    if round_ is not None and round_ not in done:
        why = "round 0 is the base model, which was not trained here" if round_ == 0 else f"round {round_} is not there"
        raise StoreError(f"{reader.name}: {why}; the run has the policies of rounds {done[0]} to {done[-1]}")
    return done[-1] if round_ is None else round_
