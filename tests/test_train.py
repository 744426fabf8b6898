"""The train job, from documents to a model, and its messages for wrong input."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import yaml
from conftest import Runs

from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import UserError


@pytest.fixture
def trained(runs: Runs) -> tuple[Path, str]:
    """The directory of a short run on one process, and what it printed."""
    run = runs("one")
    return run, (run / "stdout.txt").read_text("utf-8")


def test_run_directory_explains_itself(trained: tuple[Path, str]) -> None:
    run, printed = trained
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    assert config["optim"]["duration"] == "20 steps"
    assert {"start", "train", "validation", "end"} == {
        json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()
    }
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, 21))
    assert [line["step"] for line in launching.metrics(run, "validation")] == [0, 10, 20]
    for line in launching.metrics(run, "validation"):
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        assert 0 <= line["accuracy"] <= 1
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    end = launching.metrics(run, "end")[0]
    assert end["loss_after"] < end["loss_before"]
    assert f"{end['unigram_loss']:.4f}" in printed
    assert "validation loss" in printed


def test_tensorboard_holds_the_same_losses(trained: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = trained
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(line["step"], line["loss"]) for line in launching.metrics(run, "train")]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.mark.slow
def test_model_answers_in_a_clean_process(trained: tuple[Path, str]) -> None:
    run, _ = trained
    program = (
        "import sys, json, torch\n"
        "from transformers import AutoModelForMaskedLM, pipeline\n"
        "model = AutoModelForMaskedLM.from_pretrained(sys.argv[1])\n"
        "fill = pipeline('fill-mask', model=sys.argv[1])\n"
        "answers = fill('the returned value is ' + fill.tokenizer.mask_token + ' .')\n"
        "tied = torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)\n"
        "print(json.dumps([tied, str(model.dtype), [answer['token_str'] for answer in answers]]))\n"
    )
    ended = launching.run([sys.executable, "-c", program, str(run / "model")], cwd=run)
    assert ended.returncode == 0, ended.output
    tied, dtype, answers = json.loads(ended.stdout.splitlines()[-1])
    assert tied
    assert dtype == "torch.float32"
    assert len(answers) == 5
    assert "fill-mask" in (run / "model" / "README.md").read_text("utf-8")


def test_unigram_loss_is_that_of_the_same_rows(trained: tuple[Path, str], prepared_cache: Path) -> None:
    """Counted again without the package's own batches."""
    run, _ = trained
    corpus = PreparedCorpus(prepared_cache / launching.metrics(run, "start")[0]["corpus"])
    train, validation = corpus.rows("train"), corpus.rows("validation")
    special = set(corpus.tokenizer.all_special_ids)
    words = [int(i) for i in train.take(np.arange(len(train))).reshape(-1) if int(i) not in special]
    counts = np.bincount(words, minlength=len(corpus.tokenizer)) + 1.0
    tokens = [int(i) for i in validation.take(np.arange(len(validation))).reshape(-1) if int(i) not in special]
    everywhere = -np.log(counts / counts.sum())[tokens].mean()
    # The run's figure is over a seventh of these tokens, so it is near and not equal.
    assert launching.metrics(run, "end")[0]["unigram_loss"] == pytest.approx(everywhere, rel=0.05)


def test_dense_head_gives_the_same_losses(tmp_path: Path, prose: Path) -> None:
    common = (
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT),
        *("--optim.duration=5 steps", "--logging.every=1", "--validation.every=null"),
        "--model.overrides={hidden_size: 32, num_attention_heads: 2, intermediate_size: 64}",
    )
    losses = []
    for masked_head in ("true", "false"):
        run = tmp_path / masked_head
        result = launching.here("train", *common, f"--output_dir={run}", f"--model.masked_head={masked_head}").result
        losses.append(list(result.losses.values()))
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """Checkpoints that do not fit: `small` (tokenizer of 1,000), `fewer` (the same with 8 rows less), `no_mask`."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("checkpoints")
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, extra in (("small", 0), ("fewer", -8), ("no_mask", 0)):
        tokenizer = AutoTokenizer.from_pretrained(found / "tokenizer")
        config = BertConfig(
            vocab_size=len(tokenizer) + extra, intermediate_size=32, max_position_embeddings=64, **shape
        )
        BertForMaskedLM(config).save_pretrained(folder / name)
        if name == "no_mask":
            tokenizer.mask_token = None
        tokenizer.save_pretrained(folder / name)
    return folder


BAD_INPUT = {
    "unknown key": (["--optim.lrr=3"], "optim.lrr", "optim.lr"),
    "wrong type": (["--optim.lr=fast"], "optim.lr", "float"),
    "missing config": (["--config=nowhere.yaml"], "--config", "nowhere.yaml"),
    "missing source": (["--corpus.source=./nowhere"], "corpus.source", "./nowhere"),
    "missing model": (["--model.name_or_path=./nowhere"], "model.name_or_path", "./nowhere"),
    "no mask token": (["--model.name_or_path={checkpoints}/no_mask"], "model.name_or_path", "mask token"),
    "vocabulary differs": (
        ["--model.name_or_path={checkpoints}/fewer"],
        "tokenizer.path",
        "--model.overrides.vocab_size",
    ),
    "too few positions": (
        ["--model.name_or_path={checkpoints}/small", "--model.overrides.max_position_embeddings=100"],
        "model.overrides.max_position_embeddings",
        "128",
    ),
    "batch does not divide": (["--batch.global_size=16", "--batch.micro_size=5"], "batch.global_size", "15 or 20"),
    "corpus under a batch": (["--batch.global_size=1000000"], "batch.global_size", "training rows"),
    "no such field": (["--model.overrides.hidden_sizes=8"], "model.overrides.hidden_sizes", "bert"),
    "impossible shape": (["--model.overrides.num_attention_heads=3"], "model.overrides", "attention heads"),
    "no such tracker": (["--tracking.trackers=notes"], "tracking.trackers", "tensorboard"),
}


def bad_input(name: str, run: Path, cache: Path, checkpoints: Path) -> tuple[list[str], str, str]:
    """The flags of a run with wrong input, the key that the message must name, and its remedy."""
    arguments, key, remedy = BAD_INPUT[name]
    filled = [argument.format(checkpoints=checkpoints) for argument in arguments]
    return [f"--corpus.cache_dir={cache}", f"--output_dir={run}", *filled], key, remedy


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_named_with_its_remedy(name: str, tmp_path: Path, prepared_cache: Path, checkpoints: Path) -> None:
    flags, key, remedy = bad_input(name, tmp_path / "run", prepared_cache, checkpoints)
    with pytest.raises(UserError) as caught:
        launching.here("train", *flags)
    assert key in str(caught.value)
    assert remedy in str(caught.value)
    assert not (tmp_path / "run").exists(), "something was written"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "corpus under a batch" else pytest.mark.slow) for name in BAD_INPUT]
)
def test_bad_input_is_one_clear_line(name: str, tmp_path: Path, prepared_cache: Path, checkpoints: Path) -> None:
    flags, key, remedy = bad_input(name, tmp_path / "run", prepared_cache, checkpoints)
    ended = launching.python("train.py", *flags)
    assert ended.returncode == 2, ended.output
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert key in lines[0]
    assert remedy in lines[0]
    assert not (tmp_path / "run").exists(), "something was written"


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["cpu_2", "zero2"])
def test_bad_input_on_two_processes_is_reported_once(topology: str, tmp_path: Path, prepared_cache: Path) -> None:
    ended = launching.accelerate(
        topology,
        "train.py",
        f"--corpus.cache_dir={prepared_cache}",
        f"--output_dir={tmp_path / 'run'}",
        "--batch.global_size=15",
        launch=("--num_processes=2",),
    )
    assert ended.returncode != 0
    assert ended.stderr.count("error: batch.global_size") == 1, ended.stderr
    assert "exitcode  : 2" in ended.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_that_train_alone_are_refused() -> None:
    """Two processes were launched, but this one had started alone before anything could connect it."""
    program = (
        "import os\n"
        "from accelerate import PartialState\n"
        "PartialState(cpu=True)\n"
        "os.environ |= {'WORLD_SIZE': '2', 'RANK': '0'}\n"
        "from mlm_dist.batches.global_batch import spread\n"
        "from mlm_dist.config import BatchConfig\n"
        "from mlm_dist.engine.launch import Launch\n"
        "from mlm_dist.engine.start import start\n"
        "with start(Launch.read(), spread(BatchConfig(), 128, 2), 1.0):\n"
        "    pass\n"
    )
    ended = launching.run([sys.executable, "-c", program])
    assert ended.returncode != 0
    assert "2 processes were launched, but each trains alone (1 joined)" in ended.stderr


@pytest.mark.slow
def test_zero_without_deepspeed_says_what_to_install(tmp_path: Path) -> None:
    """DeepSpeed is hidden from the interpreter, as where it was never installed."""
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(
        "import importlib.machinery, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'deepspeed':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'deepspeed' else real(name, *rest)\n",
        "utf-8",
    )
    ended = launching.python(
        "train.py",
        f"--output_dir={tmp_path / 'run'}",
        PYTHONPATH=str(tmp_path),
        ACCELERATE_USE_DEEPSPEED="true",
        CUDA_VISIBLE_DEVICES="-1",
    )
    assert ended.returncode == 2, ended.output
    assert "pip install 'mlm_dist[deepspeed]'" in ended.stderr


@pytest.mark.slow
def test_help_and_print_config() -> None:
    for flag in ("--help", "--print_config"):
        ended = launching.python("train.py", flag)
        assert ended.returncode == 0, ended.output
        assert "max_length" in ended.stdout
    assert "python mlm_dist/train.py docs/" in launching.python("train.py", "--help").stdout
