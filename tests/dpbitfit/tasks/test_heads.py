"""A head of label names: two that a model reads alike are refused, and both are named."""

import pytest
import torch

from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.heads import label_head
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification


@pytest.mark.parametrize("others", [(), ("zzz", "something else")], ids=["two", "four"])
@pytest.mark.parametrize(
    "alike",
    [
        ("Type 2", "type 2"),
        ("aiguë", "aigue"),
        ("ICD_J10", "ICD J10"),
        ("day-care", "day_care"),
        ("🙂", "🙃"),
    ],
)
def test_label_names_that_embed_alike_are_named(
    alike: tuple[str, str], others: tuple[str, ...]
) -> None:
    labels = (*others[:1], alike[0], *others[1:], alike[1])
    with pytest.raises(InputError, match=f"labels '{alike[0]}' and '{alike[1]}' read alike"):
        TextClassification.load("minilm", TextSettings.checked(), labels)


def test_names_that_are_cut_to_the_same_tokens_are_named() -> None:
    labels = ("a disease of the left eye", "a disease of the left ear")
    TextClassification.load("minilm", TextSettings.checked(), labels)
    with pytest.raises(InputError, match="read alike"):
        TextClassification.load("minilm", TextSettings.checked(max_length=6), labels)


@pytest.mark.parametrize("pair", [(0, 1), (3, 299), (255, 256), (297, 298)])
def test_every_pair_of_many_labels_is_compared(pair: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(300, 8, generator=generator), dim=1)
    labels = [f"label {place}" for place in range(300)]
    assert torch.equal(label_head(labels, vectors, False).weight, vectors)
    rounding = 1 + 1e-6 * torch.randn(8, generator=generator)
    vectors[pair[1]] = vectors[pair[0]] * rounding
    with pytest.raises(InputError, match=f"'label {pair[0]}' and 'label {pair[1]}' read"):
        label_head(labels, vectors, False)
