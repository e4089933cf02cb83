"""Which implementation of attention computes what a model's config asks for."""

from __future__ import annotations

from transformers import PreTrainedModel


def caps_scores(model: PreTrainedModel) -> bool:
    """Whether attention caps its scores (Gemma 2), which PyTorch's fused kernels cannot; they would leave it out."""
    return getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None


def has_sinks(model: PreTrainedModel) -> bool:
    """Whether attention may attend to nothing (GPT-OSS), by a learned score that fused kernels would leave out."""
    return any(name.endswith(".sinks") for name, _ in model.named_parameters())


def compute_caps(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with attention that caps its scores where its config says so; others keep theirs."""
    if caps_scores(model) and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    return model
