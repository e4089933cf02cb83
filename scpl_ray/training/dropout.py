"""Turning off everything that drops values by chance while a model trains."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

NAMED = "drop"
"""Part of the names of probabilities with which modules drop: ``attention_dropout``, ``resid_pdrop``, ``layerdrop``."""


def turn_off(model: PreTrainedModel) -> None:
    """Set every probability of dropping in a model and in its configs to 0.

    Many architectures have no ``nn.Dropout``: their modules keep the probability as a number, or ask a config for it in
    every pass.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _zero(module)
    for config in _configs(model):
        _zero(config)


def _zero(thing: nn.Module | PreTrainedConfig) -> None:
    for name, value in list(vars(thing).items()):
        if NAMED in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(thing, name, type(value)(0))  # some configs refuse a float where they have an int


def _configs(model: PreTrainedModel) -> Iterator[PreTrainedConfig]:
    """The configs of all modules, each followed by those inside it."""
    waiting = [one for module in model.modules() if isinstance(one := vars(module).get("config"), PreTrainedConfig)]
    while waiting:
        config = waiting.pop()
        yield config
        waiting += [inner for inner in vars(config).values() if isinstance(inner, PreTrainedConfig)]
