"""``dpbitfit simulate`` finds what is wrong before it starts or makes anything."""

from pathlib import Path
from typing import Any

import pytest

from dpbitfit import simulate_command
from dpbitfit.errors import ModelError

from ..support.backbones import backbone
from .tasks.test_text_classification import save


@pytest.mark.parametrize(
    ("name", "says"),
    [("vit", "does not read the tokens"), ("xlnet", "bias values only"), ("t5", "cannot read")],
)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_started(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(simulate_command, "run_simulation", start)
    model = save(backbone(name), tmp_path / "model")
    data = tmp_path / "data.csv"
    rows = ("my card is lost,card lost\n", "what is the rate,loan rate\n") * 20
    data.write_text("text,label\n" + "".join(rows))
    words = ["--data", str(data), "--labels", "card lost,loan rate", "--model", model]
    words += ["--out", str(tmp_path / "out")]
    with pytest.raises(ModelError, match=says):
        simulate_command.command.main(words, standalone_mode=False)
    assert not (tmp_path / "out").exists()
