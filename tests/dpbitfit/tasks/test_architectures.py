"""Models that people bring: what of them trains, what is left out and why, what is refused."""

from pathlib import Path

import pytest

from dpbitfit.engine import selfcheck
from dpbitfit.engine.biases import NOT_PER_RECORD, SOFTMAX_KEY, UNREACHED
from dpbitfit.errors import ModelError

from ...support.backbones import backbone
from ...support.tasks import load_text
from .test_text_classification import LABELS, save

# By the model: a part of the name of what is left out, and why; nothing else is but softmax keys.
LEFT_OUT = {
    "deberta": {"self.q_bias": "no layer", "self.v_bias": "no layer", "pos_q_proj": NOT_PER_RECORD},
    # Shared by the batch: relative positions.
    "deberta-v2": {"encoder.LayerNorm": NOT_PER_RECORD, "query_proj": NOT_PER_RECORD},
    # Flattens records and tokens.
    "opt": {"fc1": NOT_PER_RECORD, "fc2": NOT_PER_RECORD, "final_layer_norm": NOT_PER_RECORD},
    # Tokens come first.
    "longformer": {
        "self.query.": NOT_PER_RECORD,
        "self.value.": NOT_PER_RECORD,
        "_global": UNREACHED,
    },
    "led": {
        "longformer_self_attn.query.": NOT_PER_RECORD,
        "longformer_self_attn.value.": NOT_PER_RECORD,
        "_global": UNREACHED,
    },
    "esm": {"contact_head": UNREACHED},
    "luke": {"entity_embeddings": UNREACHED, "w2e": UNREACHED, "e2w": UNREACHED, "e2e": UNREACHED},
    "layoutlm": {"pooler": UNREACHED},
    # A LayerNorm whose features come second.
    "squeezebert": {"layernorm": NOT_PER_RECORD, "pooler": UNREACHED},
    # Layers of their own, that add their bias as others do.
    "mobilebert": {},
    "ibert": {},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_bias_that_cannot_be_trained_soundly_is_left_out_and_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, model = LEFT_OUT[name], save(backbone(name), tmp_path)
    task = load_text(model, LABELS)
    assert load_text(model, LABELS, private=False).layout == task.layout
    others = [bias for bias in task.layout.left_out if bias.why != SOFTMAX_KEY]
    for part, why in wanted.items():
        assert any(part in bias.name and why in bias.why for bias in others), part
    for bias in others:
        assert any(part in bias.name and why in bias.why for part, why in wanted.items()), bias
        assert bias.why in caplog.text
    biases = {key for key, _ in task.model.named_parameters() if "bias" in key.split(".")[-1]}
    assert biases == {*task.layout.names, *(bias.name for bias in task.layout.left_out)}
    assert task.layout.size == len(task.pretrained)
    assert task.layout.size >= sum(bias.size for bias in others if bias.why != UNREACHED) / 2


@pytest.mark.parametrize("name", ["deberta-v2", "longformer", "opt"])
def test_machines_with_other_kernels_leave_out_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where the batches decide: eight records of eight tokens look like tokens first."""
    path = save(backbone(name), tmp_path)
    here = load_text(path, LABELS).layout
    monkeypatch.setattr(selfcheck, "CANONICAL_ROWS", (8, 16))
    there = load_text(path, LABELS).layout
    assert here == there
    assert here.digest == there.digest


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit", "ViTModel does not read the tokens of a text"),
        ("clip", "CLIPModel does not read the tokens of a text"),
        ("t5", "cannot read a text: You must specify"),
        ("xlnet", r"of 240 bias values only 0 can be trained soundly; backbone\.layer"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_cause(
    name: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        load_text(save(backbone(name), tmp_path), LABELS)
