"""The exported model: its content, its reload check, its model card, and its upload to the Hub."""

from __future__ import annotations

import base64
import dataclasses
import json
import platform
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
import yaml
from huggingface_hub import ModelCard, constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from mlm_dist import export, trained_model
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import Config, parse, parse_of_run, to_dict, to_yaml
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import CheckpointError, ConfigError, ModelError
from mlm_dist.hf_model import reload_check, upload
from mlm_dist.hf_model.model_card import CardContent, model_card
from mlm_dist.hf_model.validated_weights import ValidatedWeights
from mlm_dist.hf_model.write import ModelFiles, write_model
from mlm_dist.model.plain_copy import with_parameters
from mlm_dist.pages.record import Record
from mlm_dist.redaction import config_without_credentials, without_places
from mlm_dist.resolve import resolve
from mlm_dist.spec import ExportSpec

SECRET = "hf_verysecretindeed"


def config_of(run: Path, *flags: str) -> Config:
    return parse_of_run([f"--output_dir={run}", *flags], prog="export.py")


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict


def test_training_exports_its_last_checkpoint(run: Path) -> None:
    """So training and the export job give the same model."""
    model = AutoModelForMaskedLM.from_pretrained(run / "model")
    point = load_file(run / "checkpoints" / "step-00000012" / "model.safetensors")
    for name, value in model.named_parameters():
        assert torch.equal(value, point[f"model.{name}"])
    assert dtypes(run / "model") == {"F32"}


@pytest.mark.parametrize(("dtype", "short"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_job_exports_in_the_given_dtype(dtype: str, short: str, copy: Path) -> None:
    shutil.rmtree(copy / "model")
    export.run(config_of(copy, f"--export.dtype={dtype}", f"--export.verify={dtype == 'bfloat16'}"))
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
    address = "https://me:secret@example.org/docs.git"  # not fetched, because the corpus is in the cache
    export.run(config_of(copy, f"--export.checkpoint={point}", f"--corpus.source={address}"))
    assert "source: https://example.org/docs.git" in (copy / "model" / "README.md").read_text("utf-8")
    model = AutoModelForMaskedLM.from_pretrained(copy / "model")
    assert torch.equal(model.get_input_embeddings().weight, load_file(point / "model.safetensors")[EMBEDDINGS])
    results = ModelCard.load(copy / "model" / "README.md").data.eval_results
    assert results is not None
    assert results[0].metric_value == launching.metrics(copy, "validation")[1]["loss"]


EMBEDDINGS = "model.model.embeddings.tok_embeddings.weight"


def test_errors_name_the_checkpoint_or_the_corpus(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"export\.checkpoint: nowhere is no checkpoint"):
        export.run(config_of(copy, "--export.checkpoint=nowhere"))
    weights = copy / "checkpoints" / "step-00000006" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is damaged"):
        export.run(config_of(copy, f"--export.checkpoint={weights.parent}"))
    with pytest.raises(CheckpointError, match=r"was trained on corpus .* restore the cache or the documents"):
        export.run(config_of(copy, f"--corpus.cache_dir={copy / 'cache'}", "--corpus.min_chars=300"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the export job needs one process"):
        export.run(config_of(copy))


@pytest.mark.slow
def test_model_that_fails_the_reload_check_replaces_no_other(copy: Path) -> None:
    """A weight beyond the range of float16 becomes infinite when it is written."""
    point = copy / "checkpoints" / "step-00000012"
    model, corpus, _ = trained_model.load_checkpoint(resolve(config_of(copy), Launch.read()), SavedWeights((point,)))
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] = 1e6
    before = (copy / "model" / "model.safetensors").read_bytes()
    wanted = ExportSpec("float16", "newest", verify=True, push_to_hub=None)
    files = ModelFiles(corpus.tokenizer, corpus.tokenizer, 64)
    with pytest.raises(ModelError, match=r"logits differ.*export\.dtype.*checkpoints are intact"):
        write_model(model, files, ModelCard("# Card"), copy / "model", wanted)
    assert (copy / "model" / "model.safetensors").read_bytes() == before
    assert not list(copy.glob(".model-*"))


def test_all_parameters_are_needed_to_write_a_model(run: Path) -> None:
    trained = AutoModelForMaskedLM.from_pretrained(run / "model")
    parameters = {name: value.detach().clone() for name, value in trained.named_parameters()}
    model = with_parameters(trained, parameters)
    assert all(torch.equal(value, parameters[name]) for name, value in model.named_parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    del parameters["model.layers.0.mlp.Wo.weight"]
    with pytest.raises(AssertionError, match=r"parameters are missing: .*layers\.0\.mlp\.Wo\.weight"):
        with_parameters(trained, parameters)


@pytest.mark.slow
def test_reload_check_finds_untied_weights_and_missing_files(copy: Path) -> None:
    folder = copy / "model"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}), "utf-8")
    weights = load_file(folder / "model.safetensors")
    decoder = {"cls.predictions.decoder.weight": weights[EMBEDDINGS.removeprefix("model.")].clone()}
    save_file(weights | decoder, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="output weights are not tied to its embeddings"):
        reload_check.check(folder, model, tokenizer)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="the exported model is not the one in memory: it does not load"):
        reload_check.check(folder, model, tokenizer)


def test_card_holds_corpus_and_validation(run: Path) -> None:
    card = ModelCard.load(run / "model" / "README.md")
    last = launching.metrics(run, "validation")[-1]
    assert card.data.eval_results is not None
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {name: last[name] for name in ("loss", "perplexity", "accuracy")}
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.base_model is None, "training started from random weights"
    assert launching.metrics(run, "start")[0]["corpus"] in card.text
    assert "mlm-dist train --config config.yaml" in card.text
    assert f"| step 12 | {last['loss']:.4f} |" in card.text
    assert "| unigram baseline | " in card.text


def test_example_of_the_card_runs(run: Path) -> None:
    """In the folder of the model, wherever that is."""
    text = (run / "model" / "README.md").read_text("utf-8")
    programs = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(programs) == 3
    process = launching.run([sys.executable, "-c", "\n".join(programs)], cwd=run / "model")
    assert process.returncode == 0, process.output
    assert len(process.stdout.splitlines()) == 6, "five words and a shape"
    assert "PATH" not in text


MANIFEST: dict[str, Any] = {
    "digest": "a2c2",
    "sources": [
        {
            **{"name": "", "kind": "folder", "location": "docs", "commit": None, "settings": {"clean": None}},
            "documents": {"found": 12},
        }
    ],
    "documents": {"found": 12, "kept": 10, "train": 9, "validation": 1, "dropped": {"empty": 2}},
    "tokens": {"kept": 100, "dropped": 0, "unknown": 1},
    "rows": {"train": 8, "validation": 1},
    "config": {"corpus": {"deduplicate": "near", "min_chars": 200}, "rows": {"mode": "pack", "max_length": 64}},
}


def card_of(manifest: dict[str, Any] = MANIFEST, **more: Any) -> ModelCard:
    record = Record({}, [], {}, {}, None)
    content = CardContent("mine", "me/mine", "bert", "org/base", "float32", "[MASK]", 6, manifest, record, "seed: 0\n")
    return model_card(dataclasses.replace(content, **more))


def test_head_of_the_card_is_valid_and_guesses_nothing() -> None:
    plain = card_of()
    assert metadata(plain) == metadata(ModelCard(plain.content)), "the same after it is read again"
    assert {"license", "language", "license_name"}.isdisjoint(metadata(plain))
    assert "Licence: not stated. Languages: not stated. Set `export.license` and `export.language`" in plain.text
    stated = card_of(license="apache-2.0", language=("en", "pt-BR"))
    assert (metadata(stated)["license"], metadata(stated)["language"]) == ("apache-2.0", ["en", "pt-BR"])
    assert "Licence: apache-2.0. Languages: en, pt-BR.\n" in stated.text
    other = metadata(card_of(license="our-licence-1"))
    assert (other["license"], other["license_name"]) == ("other", "our-licence-1")
    assert metadata(plain)["base_model"] == "org/base"
    assert "starting from org/base" in plain.text


def metadata(card: ModelCard) -> dict[str, Any]:
    """The head of a card, read as the Hub reads it."""
    found: dict[str, Any] = yaml.safe_load(card.content.split("---\n")[1])
    return found


def test_card_says_what_the_data_is_and_how_it_was_cleaned() -> None:
    text = card_of().text
    for line in (
        "- source: docs (folder, 12 documents)",
        "- documents: 12 documents found, 10 kept",
        "- dropped: 2 empty",
        "- cleaning: markup removed by the suffix of each file, records kept as they are; "
        "documents under 200 characters are dropped",
        "- duplicates: duplicates and near-duplicates are dropped but one",
        "- split: 9 for training, 1 for validation",
        "- tokens: 100; unknown to the tokenizer: 1.0%",
        "- rows: 8 for training and 1 for validation, of up to 64 tokens (pack)",
    ):
        assert f"{line}\n" in text
    assert "the config expects them at `docs`." in text
    plain = {**MANIFEST, "sources": [{**MANIFEST["sources"][0], "settings": {"clean": "none"}}]}
    assert "- cleaning: texts kept as they are; documents under" in card_of(plain).text
    hub = {**MANIFEST, "sources": [{**MANIFEST["sources"][0], "kind": "hub", "location": "org/data"}]}
    assert "not part of this repository" not in card_of(hub).text
    assert metadata(card_of(hub))["datasets"] == ["org/data"]


def test_card_of_a_run_has_the_decided_settings_and_the_versions(run: Path) -> None:
    text = (run / "model" / "README.md").read_text("utf-8")
    resolved = yaml.safe_load((run / "resolved.yaml").read_text("utf-8"))
    assert f"| optim.lr | {resolved['phases'][0]['rate']['peak']} |" in text
    assert f"| batch.micro_size | {resolved['phases'][0]['batch']['micro_size']} |" in text
    assert f"| versions | Python {platform.python_version()}, torch {torch.__version__}, transformers " in text
    assert ", starting from random weights." in text


def test_licence_and_language_of_the_config_are_in_the_card(copy: Path) -> None:
    export.run(config_of(copy, "--export.license=mit", "--export.language=en,de", "--export.verify=false"))
    data = ModelCard.load(copy / "model" / "README.md").data
    assert (data.license, data.language) == ("mit", ["en", "de"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--export.license=Apache 2", r"export\.license: must be in lower case without spaces, such as apache-2\.0"),
        ("--export.language=english", r"export\.language: must be ISO 639 codes such as \[en, pt-BR\]"),
    ],
)
def test_licence_and_language_that_the_hub_does_not_take_are_refused(flag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse([flag])


def test_card_of_an_uploaded_model_names_its_repository() -> None:
    card = card_of()
    assert 'pipeline("fill-mask", model="me/mine")' in card.text
    assert 'SentenceTransformer("me/mine")' in card.text
    assert card.data.base_model == "org/base"
    assert "There was no validation of these weights." in card.text


def test_card_compares_each_source_before_and_after() -> None:
    def line(loss: float) -> dict[str, Any]:
        sources = {"source_own_loss": 1.5, "source_prose_loss": loss}
        return {"loss": 2.0, "perplexity": 7.4, "accuracy": 0.5, "masked_tokens": 9} | sources

    record = Record({"validation_only": ["prose"]}, [], {}, {0: line(3.25), 6: line(3.5), 9: line(9.0)}, None)
    text = ValidatedWeights(record, 6).table()
    assert "| own | 1.5000 | 1.5000 |\n| prose (not trained on) | 3.2500 | 3.5000 |" in text
    text = ValidatedWeights(dataclasses.replace(record, rows={0: (5,), 6: (9,), 9: (9,)}), 6).table()
    assert "before training |" not in text.split("\n\n")[0] and "| prose (not trained on) |  | 3.5000 |" in text


def test_best_checkpoint_is_exported_by_the_job(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    losses = {line["step"]: line["loss"] for line in launching.metrics(copy, "validation")}
    best = copy / "checkpoints" / f"step-{min((6, 12), key=losses.__getitem__):08d}"
    export.run(config_of(copy, "--export.checkpoint=best"))
    model = AutoModelForMaskedLM.from_pretrained(copy / "model")
    assert torch.equal(model.get_input_embeddings().weight, load_file(best / "model.safetensors")[EMBEDDINGS])


def test_config_of_the_card_is_that_of_the_run(run: Path, tmp_path: Path) -> None:
    text = (run / "model" / "README.md").read_text("utf-8")
    (tmp_path / "config.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], "utf-8")
    expected = without_places(to_dict(config_of(run)))
    assert to_dict(parse([f"--config={tmp_path / 'config.yaml'}"])) == expected


def test_no_file_names_a_place_on_this_machine(run: Path) -> None:
    """Neither the folders of the run and its documents, nor the home folder, nor what transformers noted on them."""
    private = {str(run), str(run.parent), str(Path.home()), "is_local", "local_files_only", "name_or_path"}
    for path in sorted((run / "model").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found = {text for text in private if text.encode() in content and path.name != "README.md"}
            found |= {text for text in private if text.startswith("/") and text.encode() in content}
            assert not found, path.name


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/someone/docs", "docs"),
        ("~/docs/*.md", "*.md"),
        ("file:///srv/git/docs.git", "docs.git"),
        ("docs/guide", "docs/guide"),
        ("https://example.org/home/docs", "https://example.org/home/docs"),
        ("me/model", "me/model"),
        ("2 epochs", "2 epochs"),
    ],
)
def test_absolute_paths_lose_all_but_their_last_part(text: str, public: str) -> None:
    assert without_places({"key": [text]}) == {"key": [public]}


@pytest.mark.parametrize("key", ["corpus.source", "corpus.sources.own.source"])
def test_credentials_are_removed_from_every_source(key: str) -> None:
    address = "https://me:secret@example.org/docs.git#main"
    config = parse([f"--{key}={address}"])
    assert "secret" in to_yaml(config)
    public = config_without_credentials(config)
    assert to_yaml(public) == to_yaml(config).replace("me:secret@", "")


def test_exported_model_can_be_fine_tuned(run: Path) -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(
        run / "model", num_labels=3, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} <= {"classifier", "bert"}
    assert all("classifier" in name or "pooler" in name for name in info["missing_keys"])
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model(**tokenizer("The vault protects the keys.", return_tensors="pt"), labels=torch.tensor([1])).loss.backward()


def test_sentence_transformers_loads_it_with_mean_pooling(run: Path) -> None:
    pytest.importorskip("sentence_transformers")
    program = (
        "import sys, torch\n"
        "from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "vectors = model.encode(['The vault protects the keys.', 'A ledger.'])\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "encoder = AutoModel.from_pretrained(sys.argv[1]).eval()\n"
        "batch = AutoTokenizer.from_pretrained(sys.argv[1])('A ledger.', return_tensors='pt')\n"
        "mean = encoder(**batch).last_hidden_state.mean(1)[0].detach()\n"
        "assert torch.allclose(torch.tensor(vectors[1]), mean, atol=1e-5)\n"
    )
    ended = launching.run([sys.executable, "-c", program, str(run / "model")])
    assert ended.returncode == 0, ended.output


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub that an upload needs; every file is part of the commit."""

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
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A local Hub: its address, and the requests it received."""

    class Handler(Hub):
        seen: list[tuple[str, Any]] = []  # noqa: RUF012 - of the class, so that the test sees it

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}", Handler.seen
    listener.shutdown()
    listener.server_close()


def test_upload_is_private(
    copy: Path, server: tuple[str, list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = server
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    flags = (f"--output_dir={copy}", "--export.push_to_hub=me/model", "--export.verify=false")
    done = launching.here("export", *flags, of_a_run=True, HF_TOKEN=SECRET)
    created = next(json.loads(body) for path, body in seen if path == "/api/repos/create")
    assert created.get("visibility") == "private" or created.get("private") is True
    assert created["name"] == "model"
    commit = next(body for path, body in seen if "/commit/" in path)
    files = [line["value"] for line in map(json.loads, commit.splitlines()) if line["key"] == "file"]
    folder = copy / "model"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {file["path"] for file in files} == names
    card = next(base64.b64decode(file["content"]) for file in files if file["path"] == "README.md")
    assert card == (copy / "model" / "README.md").read_bytes()
    assert "me/model" in done.log and SECRET not in done.log


def test_upload_without_a_network_is_an_error_of_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(
        ConfigError, match=r"export\.push_to_hub: cannot upload to me/model \(.*to try again, run"
    ) as caught:
        upload.push(run / "model", "me/model")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_upload_without_a_login_is_refused_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"export\.push_to_hub: not logged in to the Hugging Face Hub"):
        export.run(config_of(run, "--export.push_to_hub=me/model", "--export.checkpoint=nowhere"))
