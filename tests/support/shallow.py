"""Parts of MiniLM as models of their own, for tests that are not about the model.

A guard loads a narrow one in seconds, most of them for imports. Words that are alike still have
embeddings that are.
"""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import load_file, save_file

from dpbitfit.tasks.models import resolve_model

LAYERS = 2
NARROW_WIDTH = 64
WIDTHS = {384: NARROW_WIDTH, 1536: 4 * NARROW_WIDTH}  # MiniLM's, and a narrow model's
HEAD = 32  # the width of one of attention's heads
TENSORS, PARAMETERS = 15, 1_344  # a narrow model's biases that train
_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@functools.cache
def shallow_minilm() -> str:
    """MiniLM's first two layers: a folder as ``narrow_minilm``'s."""
    return _cut({}, "minilm")


@functools.cache
def narrow_minilm(name: str = "minilm") -> str:
    """A corner of two layers: its folder, which every user can read, named as it is in a plan."""
    return _cut(WIDTHS, name)


def _cut(widths: Mapping[int, int], name: str) -> str:
    parent = Path(tempfile.mkdtemp(prefix="dpbitfit-model-"))
    atexit.register(shutil.rmtree, parent)
    parent.chmod(0o755)
    whole, folder = Path(resolve_model("minilm")), parent / name
    folder.mkdir(mode=0o755)
    for file in _COPIED:
        shutil.copy(whole / file, folder)
    config = json.loads((whole / "config.json").read_text())
    above = tuple(f"encoder.layer.{n}." for n in range(LAYERS, config["num_hidden_layers"]))
    for key in ("hidden_size", "intermediate_size"):
        config[key] = widths.get(config[key], config[key])
    config |= {"num_hidden_layers": LAYERS, "num_attention_heads": config["hidden_size"] // HEAD}
    (folder / "config.json").write_text(json.dumps(config))
    kept = {
        tensor: value[tuple(slice(widths.get(width, width)) for width in value.shape)].copy()
        for tensor, value in load_file(whole / "model.safetensors").items()
        if not tensor.startswith(above)
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    return str(folder)
