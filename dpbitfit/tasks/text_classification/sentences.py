"""The files by which sentence-transformers computes the same embeddings from a saved model."""

import json
from pathlib import Path
from typing import Any

from dpbitfit.tasks.text_classification.pooling import FLAGS, Pooling

# The names that every version since 2 knows.
_MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}


def write_modules(folder: Path, pooling: Pooling, width: int, max_length: int) -> None:
    """Describe a saved transformer of ``width`` whose texts are cut to ``max_length`` tokens."""
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": path,
            "type": f"sentence_transformers.models.{k}",
        }
        for place, (k, path) in enumerate(_MODULES.items())
    ]
    flags = {flag: mode == pooling for flag, mode in FLAGS.items()}
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": width, **flags},
        "2_Normalize/config.json": {},
    }.items():
        _write(folder / name, content)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
