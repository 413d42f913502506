"""How a model pools follows from its files, or from how it attends, and not from its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
)

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.text_classification.backbone import load_pretrained
from dpbitfit.tasks.text_classification.pooling import is_causal, pool

from ...support.saved_models import SHAPE, save_small

CAUSAL: dict[str, tuple[Callable[[], torch.nn.Module], bool]] = {
    "bert": (lambda: BertModel(BertConfig(**SHAPE)), False),
    "bert decoder": (lambda: BertModel(BertConfig(**SHAPE, is_decoder=True)), True),
    "electra": (lambda: ElectraModel(ElectraConfig(**SHAPE, embedding_size=16)), False),
    "roberta": (lambda: RobertaModel(RobertaConfig(**SHAPE, max_position_embeddings=64)), False),
    "gpt2": (lambda: GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=260)), True),
    "opt": (lambda: OPTModel(OPTConfig(**SHAPE, ffn_dim=24, word_embed_proj_dim=16)), True),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_whether_a_model_is_causal_is_seen_in_its_states(name: str) -> None:
    torch.manual_seed(0)
    make, expected = CAUSAL[name]
    assert is_causal(make().eval(), 260) == expected


def test_the_mean_of_a_text_without_tokens_is_zero_and_moves_nothing() -> None:
    states = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[0, 0, 0], [1, 1, 0]])
    pooled = pool(states, mask, "mean")
    assert torch.equal(pooled[0], torch.zeros(4))
    assert torch.equal(pooled[1], states[1, :2].mean(dim=0))
    pooled.sum().backward()
    assert torch.isfinite(states.grad).all()
    assert not states.grad[0].any()


def pooling(folder: str | Path) -> str:
    return load_pretrained(str(folder), 20.0, 32)[0].pooling


def test_a_decoder_pools_alike_whatever_class_wrote_it(tmp_path: Path) -> None:
    path = save_small("qwen2", tmp_path / "causal")
    plain = save_small("qwen2", tmp_path / "plain")
    AutoModel.from_pretrained(path).save_pretrained(plain)
    named = [json.loads(Path(p, "config.json").read_text())["architectures"] for p in (path, plain)]
    assert named == [["Qwen2ForCausalLM"], ["Qwen2Model"]]
    assert pooling(path) == pooling(plain) == "lasttoken"


def declare(folder: str, config: dict[str, Any], *modules: str) -> None:
    """Make a sentence-transformers folder of one."""
    paths = ["", *(f"{place}_{name}" for place, name in enumerate(modules, start=1))]
    listed = [
        {
            "idx": place,
            "name": str(place),
            "path": path,
            "type": f"sentence_transformers.models.{n}",
        }
        for place, (path, n) in enumerate(zip(paths, ("Transformer", *modules), strict=True))
    ]
    Path(folder, "modules.json").write_text(json.dumps(listed))
    Path(folder, "1_Pooling").mkdir(exist_ok=True)
    Path(folder, "1_Pooling", "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "cls", "embedding_dimension": 16}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_what_sentence_transformers_declares_counts(
    name: str, config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = save_small(name, tmp_path)
    declare(folder, config, "Pooling", "Normalize")
    assert pooling(folder) == expected
    (tmp_path / "modules.json").unlink()
    assert pooling(folder) == expected


@pytest.mark.parametrize(
    ("config", "modules", "reason"),
    [
        ({"pooling_mode_max_tokens": True}, ("Pooling",), "pools by max"),
        ({"pooling_mode": ["cls", "mean"]}, ("Pooling",), "pools by cls and mean"),
        ({"pooling_mode": "weightedmean"}, ("Pooling",), "pools by weightedmean"),
        ({"pooling_mode": "mean"}, ("Pooling", "Dense"), "need Dense"),
    ],
)
def test_embeddings_that_are_not_computed_here_are_refused(
    config: dict[str, Any], modules: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    folder = save_small("bert", tmp_path)
    declare(folder, config, *modules)
    with pytest.raises(ModelError, match=reason):
        pooling(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '"text"'])
def test_damaged_files_are_named(text: str, tmp_path: Path) -> None:
    folder = save_small("bert", tmp_path)
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(InputError, match=r"modules\.json"):
        pooling(folder)


def test_padding_is_never_pooled() -> None:
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for row, tokens in enumerate((1, 3, 5)):
        text = states[row, :tokens]
        assert torch.equal(pool(states, mask, "cls")[row], text[0])
        assert torch.equal(pool(states, mask, "lasttoken")[row], text[-1])
        assert torch.allclose(pool(states, mask, "mean")[row], text.mean(dim=0))
