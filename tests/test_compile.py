"""Compiled runs have the losses, parameter names and shapes of eager ones, and compile nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mlm_dist.batches import shapes
from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.batches.shapes import VARYING, Shapes
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.config import BatchConfig, MaskingConfig
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.start import start
from mlm_dist.model.compilation import CompileStats, compile_forward, compile_head
from mlm_dist.model.layers import encoder_layers
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.training.metrics import Metrics
from mlm_dist.training.step import StepResult

ROWS, LENGTH, VOCABULARY, STEPS = 8, 32, 200, 10


class SomeRows:
    """64 rows of random tokens: one chunk that fills each row, or one to three short chunks."""

    groups: np.ndarray | None = None

    def __init__(self, *, packed: bool = False) -> None:
        self._packed = packed
        self.counts = RowCounts.of(*self.chunks(np.arange(64)))
        self._ids = np.random.default_rng(0).integers(5, VOCABULARY, size=(64, LENGTH), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, indices: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._ids[indices]
        return found

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._packed:
            return np.full(len(indices), LENGTH), np.ones(len(indices), np.int64)
        counts = 1 + indices % 3
        return np.full(int(counts.sum()), 9), counts

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), LENGTH), bool)


MASKER = Masker(MaskingConfig(probability=0.15), 1, 4, (0, 1, 2, 3, 4), VOCABULARY)


def batch(step: int, rows: SomeRows, filled_to: Shapes) -> MicroBatch:
    samples = np.arange(step * ROWS, (step + 1) * ROWS) % len(rows)
    keys = np.arange(ROWS).astype(np.uint64) + np.uint64(step * 1000)
    return assemble(rows, MASKER, Samples(np.full(ROWS, step), samples, keys), ROWS, filled_to)


def model_of(*, packed: bool = False) -> MaskedLanguageModel:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    return MaskedLanguageModel(BertForMaskedLM(config), packed=packed)


def train(
    how: str, pause: Any = contextlib.nullcontext, *, packed: bool = False
) -> tuple[list[float], list[int], MaskedLanguageModel]:
    """Losses of some steps and of an evaluation after them, the number of graphs after each step, and the model."""
    rows = SomeRows(packed=packed)
    filled_to = VARYING if how == "none" else shapes.fixed(MASKER, rows, ROWS)
    core = model_of(packed=packed)
    compiled = compile_forward(core, how)
    compiled.pause(pause)
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    losses, graphs = [], []
    for step in range(STEPS):
        micro = batch(step, rows, filled_to)
        loss = core(*micro.inputs).loss_sum / micro.num_predicted
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        graphs.append(compiled.num_graphs)
    core.eval()
    with torch.no_grad():
        losses.append(float(core(*batch(0, rows, filled_to).inputs).loss_sum) / 100)
    core.train()
    assert (compiled.seconds > 0) == (how != "none")
    return losses, graphs, core


@pytest.fixture
def fresh() -> Iterator[None]:
    """A compiler that has compiled nothing yet; its settings are restored afterwards."""
    import torch._dynamo as dynamo

    settings = dynamo.config.recompile_limit, dynamo.config.optimize_ddp
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()
    dynamo.config.recompile_limit, dynamo.config.optimize_ddp = settings
    dynamo.callback.callback_handler.clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns when it imports its compiler
# torch warns when it inspects the arguments of a compiled layer.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("how", "packed"), [("regional", False), ("whole", True)])
def test_nothing_is_compiled_twice_and_losses_stay_the_same(how: str, packed: bool, fresh: None) -> None:
    """With dropout masks per row, the masked head, packed rows, and a varying number of predicted tokens."""
    rows = SomeRows(packed=packed)
    assert len({batch(step, rows, VARYING).num_predicted for step in range(STEPS)}) > 3
    expected, _, plain = train("none", packed=packed)
    pauses: list[float] = []

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        began = time.perf_counter()
        yield
        pauses.append(time.perf_counter() - began)

    found, graphs, core = train(how, pause, packed=packed)
    assert len(pauses) >= 2, "training or evaluation was compiled outside a pause"
    assert found == pytest.approx(expected, abs=1e-4)
    assert graphs == [1] * STEPS, "more than one graph for all layers and steps"
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(core.state_dict()) == list(plain.state_dict())
    for (name, ours), theirs in zip(core.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns when it imports its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_compiled_head_and_loss_have_the_gradients_of_eager_ones(
    kind: str, precision: torch.dtype, fresh: None
) -> None:
    """`regional` compiles them on a GPU, where the loss is that of torch; here the same code is compiled for a CPU."""
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = CONFIG_MAPPING[kind](**sizes, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    core = MaskedLanguageModel(AutoModelForMaskedLM.from_config(config))
    core.eval()  # without dropout
    micro = batch(0, SomeRows(), VARYING)

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = core(*micro.inputs).loss_sum
        return loss.detach(), [*torch.autograd.grad(loss, [*core.parameters()])]

    loss, gradients = step()
    compile_head(core)
    compiled_loss, compiled_gradients = step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    tolerance = 1e-5 if precision is torch.float32 else 2e-2
    assert float(compiled_loss) == pytest.approx(float(loss), rel=tolerance)
    whole = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for (name, _), ours, theirs in zip(core.named_parameters(), compiled_gradients, gradients, strict=True):
        assert theirs.norm() > 0, name
        assert float((ours - theirs).norm()) <= tolerance * max(theirs.norm(), 1e-3 * whole), name


def test_encoder_layers() -> None:
    core = model_of()
    assert encoder_layers(core.model) == list(core.model.bert.encoder.layer)


def test_fixed_shapes_fit_practically_all_micro_batches() -> None:
    rows = SomeRows(packed=True)
    fixed = shapes.fixed(MASKER, rows, ROWS)
    found = [batch(step, rows, fixed) for step in range(60)]
    assert {micro.positions.shape for micro in found} == {(fixed.predicted,)}
    assert fixed.predicted == 96, "a mean of 38, five deviations of 6, and up to a multiple of 32"
    starts = [micro.cu_seq_lens for micro in found]
    assert {None if one is None else one.shape for one in starts} == {(fixed.chunks,)}
    assert all(one is not None and int(one[-1]) == ROWS * LENGTH for one in starts)


def test_packed_rows_of_one_chunk_each_keep_the_shape() -> None:
    """Otherwise a micro-batch of such rows would have a mask and need another graph."""
    rows = SomeRows(packed=True)
    fixed = shapes.fixed(MASKER, rows, 2)
    micro = assemble(rows, MASKER, Samples(np.zeros(2, np.int64), np.array([0, 3])), 2, fixed)
    assert micro.cu_seq_lens is not None and micro.attention_mask is None


def test_too_many_predicted_tokens_use_the_next_shape() -> None:
    rows = SomeRows()
    loose, tight = batch(3, rows, VARYING), batch(3, rows, Shapes(predicted=32))
    assert loose.num_predicted > 32
    assert tight.positions[: loose.num_predicted].tolist() == loose.positions[: loose.num_predicted].tolist()
    assert len(tight.positions) % 32 == 0 and int((tight.labels >= 0).sum()) == loose.num_predicted
    large = Shapes(predicted=1024)
    assert [large.num_predicted(count) for count in (1, 1024, 1025, 1152, 1153)] == [1024, 1024, 1152, 1152, 1280]
    assert [VARYING.num_predicted(count) for count in (0, 1, 32, 33)] == [32, 32, 32, 64]


@pytest.mark.parametrize("probability", [0.01, 0.15, 0.4])
def test_fixed_shapes_fit_the_largest_micro_batch_of_a_run(probability: float) -> None:
    counts = np.random.default_rng(0).binomial(4096, probability, 100_000)

    class Many(SomeRows):
        def take(self, indices: np.ndarray) -> np.ndarray:
            return np.zeros((len(indices), 512), np.int32)

    room = shapes.fixed(dataclasses.replace(MASKER, config=MaskingConfig(probability=probability)), Many(), 8).predicted
    assert counts.max() <= room < counts.mean() * 1.2 + 96


def test_each_compilation_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlm_dist")
    stats = CompileStats(enabled=False)
    stats.log()
    assert not caplog.messages
    stats._num_graphs = lambda: 2
    stats.log()
    stats.log()
    assert len(caplog.messages) == 1 and "compiled 2 graphs; 0.0 s" in caplog.messages[0]
    stats._num_graphs = lambda: 3
    stats.log()
    assert "compiled 1 graph more, for new shapes" in caplog.messages[1]


def test_pauses_may_be_nested(tmp_path: Path) -> None:
    """The clock pauses during validation, and again during compilation within it."""
    with start(Launch.read({}), spread(BatchConfig(), LENGTH, 1), 1.0) as engine:
        metrics = Metrics(engine, tmp_path / "metrics.jsonl", TrainState.new(engine.device))
        with metrics.paused():
            time.sleep(0.2)
            with metrics.paused():
                time.sleep(0.2)
            time.sleep(0.2)
        one, tokens = torch.ones(1), torch.tensor(1000)
        result = StepResult(one, one, tokens, torch.tensor(1.0), *[torch.tensor(0)] * 3)
        state = TrainState.new(engine.device).after(8, tokens, torch.tensor(0))
        line = metrics.train_line(state, result, ("masked_lm",), 1e-3, {})
        metrics.end()
    assert 1000 / line["tokens_per_second"] < 0.15, "time within a pause was counted"


def launch(run: Path, cache: Path, topology: str, *arguments: str) -> Any:
    processes = () if topology == "cpu" else ("--num_processes=2",)
    ended = launching.accelerate(
        topology,
        "train.py",
        *(f"--corpus.cache_dir={cache}", f"--output_dir={run}", "--optim.duration=12 steps", "--logging.every=1"),
        *("--batch.global_size=16", "--batch.micro_size=4", "--validation.every=6", *launching.DROPOUT),
        *launching.TINY,
        *arguments,
        launch=("--mixed_precision=no", *processes),
    )
    assert ended.returncode == 0, ended.output
    return ended.stdout


def losses(run: Path) -> list[float]:
    return [line["loss"] for kind in ("train", "validation") for line in launching.metrics(run, kind)]


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> list[float]:
    run = tmp_path_factory.mktemp("eager") / "run"
    launch(run, prepared_cache, "cpu", "--rows.mode=pack")
    return losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["regional", "whole"])
@pytest.mark.parametrize("topology", ["cpu", "cpu_2", "zero1", "zero2", "zero3", "fsdp2_cpu"])
def test_compiled_runs_follow_eager_ones(
    topology: str, how: str, eager: list[float], tmp_path: Path, prepared_cache: Path
) -> None:
    run = tmp_path / "run"
    packed = (f"--model.compile={how}", "--rows.mode=pack")
    printed = launch(run, prepared_cache, topology, *packed)
    assert losses(run) == pytest.approx(eager, abs=1e-4)
    assert "compiled" in printed and "more, for new shapes" not in printed
    (end,) = launching.metrics(run, "end")
    assert end["compile_seconds"] > 0
    for path in (next(run.glob("checkpoints/step-*/model.safetensors")), run / "model" / "model.safetensors"):
        with safe_open(path, "pt") as file:
            assert all("_orig_mod" not in name for name in file.keys())  # noqa: SIM118


@pytest.mark.slow
def test_compiled_run_resumes_uncompiled_and_back(tmp_path: Path, eager: list[float], prepared_cache: Path) -> None:
    run = tmp_path / "run"
    packed, kept = "--rows.mode=pack", ("--checkpoint.every=4", "--checkpoint.keep_last=9")
    launch(run, prepared_cache, "cpu", packed, "--model.compile=whole", *kept)
    for how, step in (("none", 4), ("regional", 8)):
        other = tmp_path / how
        point = run / "checkpoints" / f"step-{step:08}"
        launch(other, prepared_cache, "cpu", packed, f"--model.compile={how}", f"--checkpoint.resume={point}")
        found = [line["loss"] for line in launching.metrics(other, "train")]
        assert found == pytest.approx(eager[step:12], abs=1e-4)
