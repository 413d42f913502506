"""Models that cannot be used are refused when they are loaded, with the cause and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from dpbitfit.errors import DpbitfitError, InputError, ModelError
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.backbones import backbone
from ...support.tasks import load_text, text_table
from .test_text_classification import LABELS, WORDS, save

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model that can be used."""
    return Path(save(backbone("bert"), tmp_path))


def tokenizer_of(words: list[str], **special: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)


@pytest.mark.parametrize(
    "kind", ["Bert", "Electra", "Albert", "Roberta", "XLMRoberta", "MPNet", "Esm", "Qwen2"]
)
def test_without_a_tokenizers_files_nothing_is_trained(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    config = getattr(hf, f"{kind}Config")(**sizes, intermediate_size=24, pad_token_id=1)
    getattr(hf, f"{kind}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(DpbitfitError, match="its tokenizer"):
        load_text(str(tmp_path), LABELS)


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        (tokenizer_of(["[UNK]", "[PAD]", "zyzzyva"], pad_token="[PAD]"), "knows no text"),
        (tokenizer_of(["[UNK]", *WORDS[2:]]), "neither a padding nor an end token"),
        (
            tokenizer_of([*WORDS, *map(str, range(30))], pad_token="[PAD]"),
            "knows tokens that the model has none for",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    tokenizer: PreTrainedTokenizerFast, says: str, model: Path
) -> None:
    tokenizer.save_pretrained(model)
    with pytest.raises(ModelError, match=says):
        load_text(str(model), LABELS)


@pytest.mark.parametrize("letters", ["M K T A Y I Q R S F V H L E", "карта не пришла и мне"])
def test_a_tokenizer_of_another_notation_or_script_is_as_good(letters: str, model: Path) -> None:
    tokenizer_of(["[UNK]", "[PAD]", *letters.split()], pad_token="[PAD]").save_pretrained(model)
    task = load_text(str(model), letters.split()[:2])
    probes = [tuple(ids) for ids in task.probes().tokens]
    assert len(set(probes)) == len(probes)


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "Longformer", "MPNet"])
def test_a_tokenizer_without_a_length_limit_reads_as_many_tokens_as_there_are_positions(
    kind: str, tmp_path: Path
) -> None:
    """Of 66 positions 64 are for tokens: RoBERTa's begin after padding's."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    if kind == "Longformer":
        sizes["attention_window"] = 8  # every text is filled up to a multiple of it
    config = getattr(hf, f"{kind}Config")(
        **sizes, intermediate_size=24, pad_token_id=1, max_position_embeddings=66
    )
    torch.manual_seed(0)
    getattr(hf, f"{kind}Model")(config).save_pretrained(tmp_path)
    tokenizer_of(["[UNK]", "[PAD]", *WORDS[2:]], pad_token="[PAD]").save_pretrained(tmp_path)
    task = load_text(str(tmp_path), LABELS, max_length=200)
    records = task.records(text_table(["card " * 300], [0]))
    assert [len(ids) for ids in records.tokens] == [64]
    assert torch.isfinite(task.logits(records)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [(WORDS.index("loan"), 3), (19, 0)])
def test_weights_that_are_not_finite_are_refused_wherever_they_are(
    value: float, place: tuple[int, int], model: Path
) -> None:
    """Fails where only what the probes read is looked at: the last token is in no text."""
    weights = load_file(model / WEIGHTS)
    weights["embeddings.word_embeddings.weight"][place] = value
    save_file(weights, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(ModelError, match=r"word_embeddings\.weight holds .* not finite"):
        load_text(str(model), LABELS)


def test_finite_weights_that_overflow_are_refused(model: Path) -> None:
    weights = load_file(model / WEIGHTS)
    for name, value in weights.items():
        if "dense.weight" in name:
            value.fill_(3e38)
    save_file(weights, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load_text(str(model), LABELS)


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def beheaded(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:40])


def emptied(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def with_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (pointer, InputError, "is a Git LFS pointer, not the weights: git lfs pull"),
        (truncated, InputError, "is damaged or incomplete"),
        (beheaded, InputError, "is damaged or incomplete"),
        (emptied, InputError, "is damaged or incomplete"),
        (without_config, InputError, "cannot be loaded"),
        (configured(model_type="no-such-model"), InputError, "cannot be loaded: .*no-such-model"),
        (configured(hidden_size=32), InputError, "cannot be loaded: .*mismatch"),
        (configured(num_hidden_layers=3), ModelError, "the files lack weights"),
        (with_adapter, ModelError, "adapter_config.json.*merge it first"),
        (
            configured(quantization_config={"quant_method": "gptq", "bits": 4}),
            ModelError,
            r"its weights are quantised \(gptq\)",
        ),
        (
            configured(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            ModelError,
            r"its weights are quantised \(bitsandbytes\)",
        ),
    ],
)
def test_files_that_are_no_whole_model_are_refused_with_the_cause(
    damage: Callable[[Path], None], kind: type[DpbitfitError], says: str, model: Path
) -> None:
    damage(model)
    with pytest.raises(kind, match=says):
        load_text(str(model), LABELS)


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (KeyError("embeddings"), "cannot be used: KeyError: 'embeddings'"),
        (ZeroDivisionError(), "cannot be used: ZeroDivisionError"),
        (RuntimeError("first line\nsecond"), "cannot be used: RuntimeError: first line$"),
        (None, "returned nothing"),
    ],
)
def test_a_sites_own_task_that_does_not_load_is_refused_with_the_cause(
    raised: Exception | None, says: str
) -> None:
    class Task(TextClassification):
        @classmethod
        def load(cls, *_: Any) -> Self:
            if raised:
                raise raised
            return None  # type: ignore[return-value]

    with pytest.raises(ModelError, match=says):
        attach(Task, "folder", Task.Settings(), LABELS)
