"""The processes that Ray keeps alive between rounds."""

from actors.startup import imports_stay, is_worker

if is_worker():
    # Before the modules of this package import torch, transformers and vLLM.
    imports_stay()
