"""A trained task as files: the whole model, or an adapter for its base model.

What is written is loaded as it was or refused: the answers to a few public texts are stored
with it, and compared.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.text_classification.files import DESCRIPTION, replaced
from dpbitfit.tasks.text_classification.heads import stored_head
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.saved import Saved, read_saved, read_tensors, write_saved
from dpbitfit.tasks.text_classification.sentences import write_modules

if TYPE_CHECKING:
    from dpbitfit.tasks.text_classification.task import TextClassification

_TOKENS, _LOGITS = "answers.tokens", "answers.logits"  # the tensors' names
_TEXTS = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "QUITE UNLIKE: Größe, naïve; ICD-10 J45.9, 2 mg/kg, 東京 🙂\tEND",
    "my card was charged twice for one payment",
    "no",
)
_SAME = 1e-3  # of a cosine: what another machine's rounding may make of an answer


def save_model(task: "TextClassification", folder: Path) -> None:
    """Write the whole model, with what transformers and sentence-transformers read."""
    backbone: Any = task.model.backbone
    head = _head(task)
    with replaced(folder) as draft:
        backbone.save_pretrained(draft)
        task.tokenizer.save_pretrained(draft)
        width = head["head.weight"].shape[1]
        write_modules(draft, task.model.pooling, width, task.max_length)
        write_saved(draft, _described(task, "model"), head)


def save_adapter(task: "TextClassification", folder: Path) -> None:
    """Write only what trained, and the head."""
    trained = {name: task.model.get_parameter(name) for name in task.layout.names}
    tensors = trained | _head(task)
    with replaced(folder) as draft:
        write_saved(draft, _described(task, "adapter"), tensors)


def read_result(folder: str, base: str) -> Saved:
    """The description of a result, which is an adapter just where there is a ``base``."""
    saved = read_saved(folder)
    if saved is None:
        raise InputError(f"{folder}: is no saved result: it has no {DESCRIPTION}")
    if saved.kind == "adapter" and not base:
        raise InputError(f"{folder}: is an adapter: give its base model, {saved.base_name!r}")
    if saved.kind == "model" and base:
        raise InputError(f"{folder}: is a whole model: give no base")
    return saved


def apply(folder: str, saved: Saved, task: "TextClassification") -> None:
    """Make a task that was read from a result's own model, or its base, answer as the result did.

    Raises InputError for another base, and where the answers are others.
    """
    if saved.kind == "adapter" and (task.base, task.model.pooling) != (saved.base, saved.pooling):
        raise InputError(
            f"{folder}: is an adapter for {saved.base_name!r}, whose weights have the digest "
            f"{saved.base:.12}, pooled by {saved.pooling}; those given have {task.base:.12}, "
            f"pooled by {task.model.pooling}"
        )
    tensors = read_tensors(folder, saved)
    answers = {name: tensors.pop(name, torch.empty(0)) for name in (_TOKENS, _LOGITS)}
    task.model.head = stored_head(tensors, len(saved.labels), "head.bias" in tensors)
    parameters = dict(task.model.named_parameters())
    for name, value in tensors.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise InputError(f"{folder}: the model has no {name} of shape {tuple(value.shape)}")
        parameters[name].data.copy_(value)
    if not _answers_as(task, answers):
        raise InputError(
            f"{folder}: answers otherwise than when it was saved: a tokenizer, a configuration or "
            "a library is not the one that it was made with"
        )


def _described(task: "TextClassification", kind: Literal["model", "adapter"]) -> Saved:
    return Saved.checked(
        kind=kind,
        labels=task.labels,
        settings=task.settings,
        pooling=task.model.pooling,
        base_name=task.name,
        base=task.base,
        files={},
    )


def _head(task: "TextClassification") -> dict[str, Tensor]:
    """The head's tensors, and the answers that the model gives with it."""
    if task.model.head is None:
        raise ModelError("the head is not set")
    state = {f"head.{name}": value for name, value in task.model.head.state_dict().items()}
    return state | _answers(task)


def _answers(task: "TextClassification") -> dict[str, Tensor]:
    """The token ids of the public texts, one after the other, and their logits [n, K]."""
    tokens = task.tokens(_TEXTS)
    return {
        _TOKENS: torch.tensor([*chain(*tokens)]),
        _LOGITS: task.logits(TextRecords(task, tokens, [0] * len(tokens), [])),
    }


def _answers_as(task: "TextClassification", answers: Mapping[str, Tensor]) -> bool:
    """Whether the answers are those given: the tokens to the bit, the logits up to rounding."""
    try:
        own = _answers(task)
    except RuntimeError:  # a head of another width
        return False
    logits, tolerance = answers[_LOGITS], _SAME * task.settings.logit_scale
    return (
        torch.equal(own[_TOKENS], answers[_TOKENS])
        and own[_LOGITS].shape == logits.shape
        and torch.allclose(own[_LOGITS], logits, _SAME, tolerance)
    )
