"""Biases by which a coordinator would make one record's gradient depend on another's.

Finite float32 vectors, as a site accepts them; both broke the sensitivity of version 0.1.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpbitfit.engine.biases import read_biases
from dpbitfit.tasks.text_classification.task import TextClassification

WIDTH, HEADS = 384, 12  # MiniLM's
LARGEST = float(np.finfo(np.float32).max)


def cancelling(task: TextClassification, scale: float) -> NDArray[np.float32]:
    """``scale`` times a sign on each LayerNorm's bias, taken back by the biases that read it.

    What is left of the sums' rounding is that much larger.
    """
    places = {name: place for name, _, place in task.layout.slices()}
    values = read_biases(task.model, task.layout).astype(np.float64)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], WIDTH) * scale
    backbone: Any = task.model.backbone
    before = "backbone.embeddings.LayerNorm.bias"
    for number, layer in enumerate(backbone.encoder.layer):
        path = f"backbone.encoder.layer.{number}."
        values[places[before]] += signs
        readers = {"attention.self.query": layer.attention.self.query}
        readers["attention.self.value"] = layer.attention.self.value
        readers["intermediate.dense"] = layer.intermediate.dense
        for name, reader in readers.items():
            values[places[f"{path}{name}.bias"]] -= reader.weight.detach().double().numpy() @ signs
        values[places[f"{path}attention.output.dense.bias"]] -= signs
        values[places[f"{path}attention.output.LayerNorm.bias"]] += signs
        values[places[f"{path}output.dense.bias"]] -= signs
        before = f"{path}output.LayerNorm.bias"
    return values.astype(np.float32)


def overflowing_at_padding(task: TextClassification, texts: list[str]) -> NDArray[np.float32]:
    """A query bias of the first layer with which scores overflow at padding, and only there.

    ``texts`` are public ones that the coordinator knows.
    """
    backbone: Any = task.model.backbone
    key = backbone.encoder.layer[0].attention.self.key
    with torch.no_grad():
        real = [
            key(backbone.embeddings(input_ids=torch.tensor([t])))[0] for t in task.tokens(texts)
        ]
        padding = key(backbone.embeddings(input_ids=torch.zeros((1, 64), dtype=torch.long)))[0]
    words, pads = (
        x.reshape(-1, HEADS, WIDTH // HEADS).double() for x in (torch.cat(real), padding)
    )
    best = None
    for head in range(HEADS):
        spread = torch.cov(words[:, head].T) + torch.cov(pads[:, head].T)
        spread += 1e-3 * torch.eye(WIDTH // HEADS)
        aim = torch.linalg.solve(spread, pads[:, head].mean(0) - words[:, head].mean(0))
        aim /= aim.norm()
        least, most = (pads[:, head] @ aim).min().item(), (words[:, head] @ aim).max().item()
        if least > 0 and (best is None or least / max(most, 1e-9) > best[0]):
            best = (least / max(most, 1e-9), head, aim, least, most)
    assert best is not None
    _, head, aim, least, most = best
    query = np.zeros(WIDTH)
    size = LARGEST / (0.5 * (least + max(most, 0)))
    query[head * len(aim) : (head + 1) * len(aim)] = aim.numpy() * 0.999 * size
    values = read_biases(task.model, task.layout)
    places = {name: place for name, _, place in task.layout.slices()}
    query = query.clip(-LARGEST, LARGEST)
    values[places["backbone.encoder.layer.0.attention.self.query.bias"]] = query
    return values
