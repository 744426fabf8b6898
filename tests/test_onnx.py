"""The ONNX graph of an exported model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_exported_tokenizer import tiny, tokenizer

from mlm_dist.errors import ConfigError
from mlm_dist.hf_model import onnx_graph


def test_missing_package_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    onnx_graph.check("safetensors")
    with pytest.raises(ConfigError, match=r"export\.format: onnx needs onnxruntime; .*pip install 'mlm_dist\[onnx\]'"):
        onnx_graph.check("onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "inputs"),
    [("bert", ["input_ids", "token_type_ids", "attention_mask"]), ("modernbert", ["input_ids", "attention_mask"])],
)
def test_graph_computes_the_logits_for_any_shape(model_type: str, inputs: list[str], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = tiny(model_type).eval()
    assert onnx_graph.write(model, tokenizer(model_input_names=inputs), tmp_path) is None
    session = runtime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    assert [one.name for one in session.get_inputs()] == inputs
    for rows, length in ((1, 3), (5, 40)):
        ids = torch.randint(5, 12, (rows, length))
        values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        values = {name: values[name] for name in inputs}
        (logits,) = session.run(["logits"], {name: value.numpy() for name, value in values.items()})
        with torch.no_grad():
            expected = model(**values).logits.numpy()
        assert np.allclose(logits, expected, atol=1e-4)
    content = (tmp_path / "onnx" / "model.onnx").read_bytes()
    assert b"site-packages" not in content, "the graph names no place on this machine"
    assert str(Path(__file__).parent.parent).encode() not in content


@pytest.mark.slow
def test_graph_of_a_search_model_computes_the_states_that_are_pooled(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = tiny("bert").eval()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert onnx_graph.write(model, tokenizer(model_input_names=names), tmp_path, "last_hidden_state") is None
    session = runtime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    assert [one.name for one in session.get_outputs()] == ["last_hidden_state"]
    ids = torch.randint(5, 12, (3, 9))
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    (states,) = session.run(None, {name: value.numpy() for name, value in values.items()})
    with torch.no_grad():
        assert np.allclose(states, model.bert(**values)[0].numpy(), atol=1e-4)


@pytest.mark.slow
def test_model_that_torch_cannot_export_is_said_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    class Untraceable(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, **inputs: Any) -> Any:
            if float(self.model(**inputs).logits.sum()) > 0:  # depends on values
                raise ValueError
            return self.model(**inputs)

    problem = onnx_graph.write(Untraceable(tiny("bert")), tokenizer(), tmp_path)
    assert problem is not None
    assert problem.startswith("torch cannot export bert to ONNX (")
    assert "\n" not in problem
