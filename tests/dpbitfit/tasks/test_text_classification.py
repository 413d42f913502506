"""Text classification with real pretrained weights and with small saved models."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.engine.training import OptimizerState, train_round
from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans
from ...support.shallow import narrow_minilm
from ...support.tasks import load_text, text_table

WORDS = ["[PAD]", "[UNK]", "card", "loan", "lost", "new", "rate", "my", "is", "what", "the"]
LABELS = ("card_lost", "loan_rate")
EXAMPLES = text_table(
    ["my card is lost", "what is the loan rate", "lost", "the new card is the new card"],
    np.array([0, 1, 0, 0]),
    ["ann", "bob", "ann", "cid"],
)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}


def save(model: torch.nn.Module, folder: Path) -> str:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[PAD]", model_max_length=32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["bert", "gpt2"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    torch.manual_seed(0)
    if request.param == "bert":
        return save(BertModel(BertConfig(**SMALL, intermediate_size=24)), tmp_path)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 32}
    return save(GPT2Model(GPT2Config(**shape)), tmp_path)


@pytest.fixture(scope="module")
def minilm() -> TextClassification:
    return load_text("minilm", LABELS, "labels", private=False)


@pytest.mark.parametrize("head", ["labels", "trained"])
def test_encoders_and_decoders_train_either_head(small: str, head: str) -> None:
    task = load_text(small, LABELS, head)
    assert task.layout.size > 0
    assert ("head.weight" in task.layout.names) == (head == "trained")
    losses = torch.cat([task.records(EXAMPLES).losses(task.model, [i]) for i in range(4)])
    values = task.evaluate(task.records(EXAMPLES))
    assert set(values["accuracy"]) <= {0.0, 1.0}
    assert values["loss"] == pytest.approx(losses.detach().numpy(), rel=1e-4)


def test_padding_does_not_change_a_records_logits(small: str) -> None:
    task = load_text(small, LABELS, "labels")
    together = task.logits(task.records(EXAMPLES))
    singly = [task.logits(task.records(EXAMPLES.take([i]))) for i in range(len(EXAMPLES))]
    assert together.numpy() == pytest.approx(torch.cat(singly).numpy(), abs=1e-4)


def test_label_names_alone_are_a_strong_start(minilm: TextClassification) -> None:
    assert minilm.evaluate(minilm.records(EXAMPLES))["accuracy"].tolist() == [1.0] * 4
    assert minilm.layout.size == 23_424


def test_a_trained_head_starts_as_strong(minilm: TextClassification) -> None:
    trained = load_text("minilm", LABELS, "trained", private=False)
    ours, theirs = (task.logits(task.records(EXAMPLES)).numpy() for task in (trained, minilm))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert trained.layout.size == minilm.layout.size + 2 * 384 + 2


def test_a_site_without_a_record_answers_with_noise(small: str) -> None:
    """Of a simulation, where who is dealt what must not depend on who else there is."""
    task = load_text(small, LABELS, "labels")
    start = read_biases(task.model, task.layout)
    phase = plans.phase(
        layout_digest=task.layout.digest,
        model_digest=task.digest,
        sampling_rate=0.5,
        rounds=1,
        steps_per_round=2,
    )
    none = task.records(EXAMPLES.take([]))
    change, state = train_round(task.model, task.layout, none, phase, 3, start, OptimizerState())
    assert state.step == 2
    assert (change != 0).all()


def test_records_are_grouped_by_person(minilm: TextClassification) -> None:
    records = minilm.records(EXAMPLES)
    assert sorted(sorted(unit.tolist()) for unit in records.units) == [[0, 2], [1], [3]]
    single = minilm.records(replace(EXAMPLES, units=None))
    assert [unit.tolist() for unit in single.units] == [[0], [1], [2], [3]]
    assert (records.lengths > 2).all()


def test_a_saved_task_loads_and_answers_alike(small: str, tmp_path: Path) -> None:
    task = load_text(small, LABELS, "labels")
    moved = read_biases(task.model, task.layout) + np.float32(0.05)
    write_biases(task.model, task.layout, moved)
    task.save(tmp_path / "saved")
    again = load_text(str(tmp_path / "saved"), LABELS, "labels")
    assert read_biases(again.model, again.layout) == pytest.approx(moved)
    assert (tmp_path / "saved" / "head.safetensors").exists()


def test_the_digest_tells_weights_labels_and_lengths_apart(small: str) -> None:
    load = partial(load_text, small, private=False)
    task = load(LABELS, "labels")
    assert load(LABELS, "labels").digest == task.digest
    others = [
        load(LABELS[::-1], "labels"),
        load(LABELS, "trained"),
        load(LABELS, "labels", logit_scale=5.0),
        load(LABELS, "labels", max_length=8),
    ]
    assert len({task.digest, *(other.digest for other in others)}) == 5


def test_long_texts_are_cut(minilm: TextClassification) -> None:
    task = load_text("minilm", LABELS, "labels", private=False, max_length=8)
    long = text_table(["card " * 500], np.array([0]))
    assert task.records(long).lengths.tolist() == [8]
    assert minilm.records(long).lengths.tolist() == [128]


@pytest.mark.parametrize("max_length", [1, 2])
def test_a_length_that_leaves_nothing_of_a_text_is_refused(max_length: int) -> None:
    """With less than it adds itself, the tokenizer cuts nothing."""
    with pytest.raises(InputError, match=f"max-length {max_length} leaves no token of a text"):
        load_text(narrow_minilm(), LABELS, "labels", max_length=max_length)


def test_a_text_is_cut_even_where_the_tokenizer_does_not(small: str) -> None:
    task = load_text(small, LABELS, "labels", max_length=3)
    uncut = task.tokenizer
    task.tokenizer = lambda texts, **_: uncut(texts)
    assert [len(ids) for ids in task.tokens(["my card is the lost card", "card"])] == [3, 1]


def test_the_longest_texts_gradients_are_computed_before_any_round(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a micro-batch has at least: else a failure in a round tells of a long text."""
    seen: set[tuple[int, int, bool]] = set()
    losses = TextRecords.losses

    def watched(records: TextRecords, model: torch.nn.Module, chosen: list[int]) -> torch.Tensor:
        seen.add((len(chosen), records.lengths[chosen[0]], torch.is_grad_enabled()))
        return losses(records, model, chosen)

    monkeypatch.setattr(TextRecords, "losses", watched)
    task = load_text(small, LABELS, max_length=30)
    assert 32 not in task.probes().lengths
    assert (task.canonical_rows, 32, True) in seen


@pytest.mark.parametrize(("max_length", "padded"), [(3, 8), (5, 8), (30, 32)])
def test_a_plan_that_cuts_texts_oddly_makes_no_odd_shapes(
    small: str, max_length: int, padded: int
) -> None:
    """A coordinator chooses where texts are cut: what they are padded to stays canonical."""
    task = load_text(small, LABELS, "labels", max_length=max_length)
    records = task.records(text_table(["card " * n for n in (1, 29, 500)], np.array([0, 1, 0])))
    assert max(map(len, records.tokens)) == max_length
    assert records.lengths.tolist() == [8, padded, padded]


def test_what_a_model_reads_at_most_is_checked_where_it_is_an_odd_shape(tmp_path: Path) -> None:
    path = save(
        BertModel(BertConfig(**SMALL, intermediate_size=24, max_position_embeddings=30)), tmp_path
    )
    task = load_text(path, LABELS, "labels")
    assert task.records(text_table(["card " * 500], np.array([0]))).lengths.tolist() == [30]
    assert 30 in task.probes().lengths


def test_a_model_without_biases_is_refused(tmp_path: Path) -> None:
    path = save(LlamaModel(LlamaConfig(**SMALL, intermediate_size=24)), tmp_path)
    with pytest.raises(ModelError, match="no biases"):
        load_text(path, LABELS, "labels")


def test_a_model_whose_files_lack_weights_is_refused(tmp_path: Path) -> None:
    model = BertModel(BertConfig(**SMALL, intermediate_size=24))
    model.encoder.layer = model.encoder.layer[:1]
    path = save(model, tmp_path)
    with pytest.raises(ModelError, match="lack weights"):
        load_text(path, LABELS, "labels")


def test_a_tokenizer_that_knows_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    small = {**SMALL, "vocab_size": len(WORDS) - 1}
    path = save(BertModel(BertConfig(**small, intermediate_size=24)), tmp_path)
    with pytest.raises(ModelError, match="tokenizer knows tokens"):
        load_text(path, LABELS, "labels")


@pytest.mark.parametrize("name", ["", "/nothing/here"])
def test_a_model_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_text(name, LABELS, "labels")


def test_another_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"head.*'labels', 'trained'"):
        load_text("minilm", LABELS, "none")
