"""The exported model: what is in it, that it is loaded again before it counts, and its way to the hub."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from mlm_dist import export
from mlm_dist.config import Config, parse, parse_of_run, to_yaml
from mlm_dist.errors import CheckpointError, ConfigError, ModelError
from mlm_dist.hf_model import model_card, reload_check, upload
from mlm_dist.pages.record import Record

SECRET = "hf_verysecretindeed"


def config_of(run: Path, *flags: str) -> Config:
    return parse_of_run([f"--output_dir={run}", *flags], prog="export.py")


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict


def test_training_exports_its_last_checkpoint(run: Path) -> None:
    """So both ways to a model give the same one."""
    model = AutoModelForMaskedLM.from_pretrained(run / "model")
    point = load_file(run / "checkpoints" / "step-00000012" / "model.safetensors")
    for name, value in model.named_parameters():
        assert torch.equal(value, point[f"model.{name}"])
    assert dtypes(run / "model") == {"F32"}


@pytest.mark.parametrize(("dtype", "short"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_job_exports_in_the_dtype_that_is_named(dtype: str, short: str, copy: Path) -> None:
    shutil.rmtree(copy / "model")
    export.main(config_of(copy, f"--export.dtype={dtype}", f"--export.verify={dtype == 'bfloat16'}"))
    assert dtypes(copy / "model") == {short}
    model = AutoModelForMaskedLM.from_pretrained(copy / "model")
    assert str(model.dtype) == f"torch.{dtype}"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    point = load_file(copy / "checkpoints" / "step-00000012" / "model.safetensors")
    for name, value in model.named_parameters():
        assert torch.equal(value, point[f"model.{name}"].to(value.dtype))
    assert not list(copy.glob(".model-*"))


def test_named_checkpoint_is_exported(copy: Path) -> None:
    point = copy / "checkpoints" / "step-00000006"
    address = "https://me:secret@example.org/docs.git"  # the corpus is in the cache, so nothing is fetched
    export.main(config_of(copy, f"--export.checkpoint={point}", f"--corpus.source={address}"))
    assert "source: https://example.org/docs.git" in (copy / "model" / "README.md").read_text("utf-8")
    model = AutoModelForMaskedLM.from_pretrained(copy / "model")
    assert torch.equal(model.get_input_embeddings().weight, load_file(point / "model.safetensors")[EMBEDDINGS])
    results = ModelCard.load(copy / "model" / "README.md").data.eval_results
    assert results is not None
    assert results[0].metric_value == launching.metrics(copy, "validation")[1]["loss"]


EMBEDDINGS = "model.bert.embeddings.word_embeddings.weight"


def test_what_cannot_be_exported_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"export\.checkpoint: nowhere is no checkpoint"):
        export.main(config_of(copy, "--export.checkpoint=nowhere"))
    weights = copy / "checkpoints" / "step-00000006" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is damaged"):
        export.main(config_of(copy, f"--export.checkpoint={weights.parent}"))
    with pytest.raises(CheckpointError, match="was trained on the rows"):
        export.main(config_of(copy, f"--corpus.cache_dir={copy / 'cache'}", "--corpus.min_chars=300"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the export job needs one process"):
        export.main(config_of(copy))


def test_model_that_is_not_what_is_in_memory_never_takes_the_place_of_one(copy: Path) -> None:
    """A weight beyond the range of float16 becomes infinite when it is written."""
    point = copy / "checkpoints" / "step-00000012" / "model.safetensors"
    model, _, _ = export.load_checkpoint(config_of(copy), point.parent)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] = 1e6
    before = (copy / "model" / "model.safetensors").read_bytes()
    corpus = export._corpus(config_of(copy), launching.metrics(copy, "start")[0]["corpus"], point.parent)
    with pytest.raises(ModelError, match=r"logits differ.*export\.dtype.*checkpoints are intact"):
        export._write(model, corpus, copy, config_of(copy, "--export.dtype=float16", "--export.verify=true"), 12)
    assert (copy / "model" / "model.safetensors").read_bytes() == before
    assert not list(copy.glob(".model-*"))


def test_check_notices_untied_weights_and_broken_files(copy: Path) -> None:
    folder = copy / "model"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}), "utf-8")
    weights = load_file(folder / "model.safetensors")
    decoder = {"cls.predictions.decoder.weight": weights[EMBEDDINGS.removeprefix("model.")].clone()}
    save_file(weights | decoder, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not the ones of its embeddings"):
        reload_check.check(folder, model, tokenizer)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="the exported model is not what was trained"):
        reload_check.check(folder, model, tokenizer)


def test_card_says_what_was_trained_on_what_and_how_well(run: Path) -> None:
    card = ModelCard.load(run / "model" / "README.md")
    last = launching.metrics(run, "validation")[-1]
    assert card.data.eval_results is not None
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: last[name] for name in ("loss", "perplexity", "accuracy")}
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.base_model is None, "it began with random weights"
    assert launching.metrics(run, "start")[0]["corpus"] in card.text
    assert "accelerate launch mlm_dist/train.py --config config.yaml" in card.text
    assert f"| after update 12 | {last['loss']:.4f} |" in card.text


def test_card_says_what_became_of_a_second_corpus() -> None:
    def line(loss: float) -> dict[str, Any]:
        return {"loss": 2.0, "perplexity": 7.4, "accuracy": 0.5, "masked_tokens": 9, "second_loss": loss}

    record = Record({"second_source": "prose"}, [], {}, {0: line(3.25), 6: line(3.5), 9: line(9.0)}, None)
    said = model_card._held_out(record, 6)
    assert "On prose, which was not trained on: a loss of 3.2500 before training, 3.5000 after." in said


def test_best_checkpoint_is_exported_by_the_job(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    losses = {line["step"]: line["loss"] for line in launching.metrics(copy, "validation")}
    best = copy / "checkpoints" / f"step-{min((6, 12), key=losses.__getitem__):08d}"
    export.main(config_of(copy, "--export.checkpoint=best"))
    model = AutoModelForMaskedLM.from_pretrained(copy / "model")
    assert torch.equal(model.get_input_embeddings().weight, load_file(best / "model.safetensors")[EMBEDDINGS])


def test_card_can_be_followed(run: Path, tmp_path: Path) -> None:
    text = (run / "model" / "README.md").read_text("utf-8")
    (tmp_path / "config.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], "utf-8")
    assert parse([f"--config={tmp_path / 'config.yaml'}"]) == config_of(run)


def test_no_credentials_leave_the_machine() -> None:
    config = parse(["--corpus.source=https://me:secret@example.org/docs.git#main"])
    assert "secret" in to_yaml(config)
    assert "secret" not in to_yaml(export.public(config))
    assert export.public(config).corpus.source == "https://example.org/docs.git#main"


def test_it_is_a_start_for_fine_tuning(run: Path) -> None:
    model, notes = AutoModelForSequenceClassification.from_pretrained(
        run / "model", num_labels=3, output_loading_info=True
    )
    assert {name.split(".")[0] for name in notes["missing_keys"]} <= {"classifier", "bert"}
    assert all("classifier" in name or "pooler" in name for name in notes["missing_keys"])
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model(**tokenizer("The vault protects the keys.", return_tensors="pt"), labels=torch.tensor([1])).loss.backward()


def test_sentence_transformers_averages_over_its_tokens(run: Path) -> None:
    pytest.importorskip("sentence_transformers")
    program = (
        "import sys, torch\n"
        "from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "found = model.encode(['The vault protects the keys.', 'A ledger.'])\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "encoder = AutoModel.from_pretrained(sys.argv[1]).eval()\n"
        "batch = AutoTokenizer.from_pretrained(sys.argv[1])('A ledger.', return_tensors='pt')\n"
        "mean = encoder(**batch).last_hidden_state.mean(1)[0].detach()\n"
        "assert torch.allclose(torch.tensor(found[1]), mean, atol=1e-5)\n"
    )
    ended = launching.run([sys.executable, "-c", program, str(run / "model")])
    assert ended.returncode == 0, ended.output


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs; every file goes with the commit itself."""

    public = False
    seen: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, body))
        if self.path.endswith("/preupload/main"):
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/me/model/commit/1", "commitOid": "1", "hookOutput": ""}
            )
        elif self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['Host']}/me/model"})
        else:
            self.answer({})

    def do_GET(self) -> None:
        self.answer({"id": "me/model", "private": not self.public, "siblings": [], "sha": "0", "tags": []})

    def answer(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A hub on this machine: its address, and what it was sent."""

    class Handler(Hub):
        seen: list[tuple[str, Any]] = []  # noqa: RUF012 - of the class, so that the test sees it

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}", Handler.seen
    listener.shutdown()
    listener.server_close()


def test_upload_is_private(copy: Path, server: tuple[str, list[tuple[str, Any]]]) -> None:
    address, seen = server
    ended = launching.python(
        "export.py",
        *(f"--output_dir={copy}", "--export.push_to_hub=me/model"),
        **{"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(copy / "hub")},
        **{"HF_ENDPOINT": address, "HF_TOKEN": SECRET},
    )
    assert ended.returncode == 0, ended.output
    created = next(json.loads(body) for path, body in seen if path == "/api/repos/create")
    assert created.get("visibility") == "private" or created.get("private") is True
    assert created["name"] == "model"
    commit = next(body for path, body in seen if "/commit/" in path)
    files = [line["value"] for line in map(json.loads, commit.splitlines()) if line["key"] == "file"]
    names = {path.name for path in (copy / "model").iterdir()}
    assert {file["path"] for file in files} == names
    card = next(base64.b64decode(file["content"]) for file in files if file["path"] == "README.md")
    assert card == (copy / "model" / "README.md").read_bytes()
    assert SECRET not in ended.output


def test_upload_without_a_network_is_one_clear_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(
        ConfigError, match=r"export\.push_to_hub: cannot upload to me/model \(.*try again with"
    ) as caught:
        upload.push(run / "model", "me/model", print)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_upload_without_a_login_is_refused_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"export\.push_to_hub: nobody is logged in"):
        export.main(config_of(run, "--export.push_to_hub=me/model", "--export.checkpoint=nowhere"))
