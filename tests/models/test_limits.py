"""A tokenizer may have more tokens than a model has embeddings, if no text of a run contains them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from scpl_ray.models.limits import check_tokenizer
from tests.support.tiny_models import VOCABULARY, config, save_model

CHAT = "w3 {{ messages[0]['content'] }} w4 %s"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "whole", "llama", hidden=32)


def checked(whole: Path, folder: Path, template: str | None, **special: object) -> None:
    """Check the tokenizer with a token more than the model has rows."""
    tokenizer = AutoTokenizer.from_pretrained(whole)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], **special})
    assert len(tokenizer) == VOCABULARY + 1
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    check_tokenizer(folder, config("llama"), "gemma", trust_remote_code=False)


@pytest.mark.parametrize(
    "template", [None, CHAT % "", CHAT % "{% if messages[0]['content'] is not string %}<image>{% endif %}"]
)
def test_a_token_for_images_may_lack_an_embedding(whole: Path, tmp_path: Path, template: str | None) -> None:
    checked(whole, tmp_path, template)


def test_a_token_that_prompts_contain_needs_an_embedding(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives ids up to 200, but its model has embeddings for 200"):
        checked(whole, tmp_path, CHAT % "<image>")


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "pad_token", "unk_token"])
def test_a_token_with_a_role_needs_an_embedding(whole: Path, tmp_path: Path, role: str) -> None:
    with pytest.raises(ValueError, match="gives ids up to 200, but its model has embeddings for 200"):
        checked(whole, tmp_path, None, **{role: "<image>"})
