"""Checkpoints: their files, what is refused, what is kept, and the state of a run in them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import gc
import json
import math
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import specs
import torch
from launching import ROOT
from making import small_disk
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from specs import cpu_engine
from torch import nn

from mlm_dist.checkpoint import find, format, host_buffer, same_run, save
from mlm_dist.checkpoint.host_buffer import HostBuffer
from mlm_dist.checkpoint.restore import restore
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.checkpoint.state import Best, LossAverage, PhaseStart, TrainState
from mlm_dist.checkpoint.tensor_file import TensorFileWriter
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.engine.protocol import Engine, FullState
from mlm_dist.errors import CheckpointError
from mlm_dist.optim.optimizers import OPTIMIZERS
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import CheckpointSpec

MICRO = 8
PHASES = [specs.phase("1 hours", micro_size=MICRO)] * 2
BATCHES = [phase.batch for phase in PHASES]
OF_RUN: dict[str, Any] = {"seed": 7, "optim.name": "adamw"}
OF_PHASE: dict[str, Any] = {"batch.global_size": 8, "masking.probability": 0.15}
IDENTITY: dict[str, Any] = OF_RUN | {"phases": [OF_PHASE, OF_PHASE]}
EVERY_FILE = (*format.FILES, "manifest.json")
NEVER = "--checkpoint.resume never"
NOT_VALIDATED = Best()
CPU = torch.device("cpu")


class Net(nn.Module):
    """A model with every shape of parameter: a matrix, a vector and a scalar."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(5, 3)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        outcome: torch.Tensor = (self.linear(values) * self.temperature).square().mean()
        return outcome


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW as `build_optimizer` makes it, for any module."""
    group = {"params": [*module.parameters()], "lr_factor": 1.0, "frozen_in": (), "layout": OPTIMIZERS["adamw"].layout}
    return torch.optim.AdamW([group], lr=0.1, fused=True)


class Run:
    """A run of a tiny model in this process, and its checkpoints."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        keep_last: int = 2,
        seed: int = 0,
        keep_best: bool = False,
        saved: Path | None = None,
    ) -> None:
        self.folder, self.engine = folder, engine
        self.core = Net(seed)
        self.optimizer = optimizer_of(self.core)
        self.checkpoints = Checkpoints(folder, CheckpointSpec(None, keep_last, keep_best, "auto"), IDENTITY, BATCHES)
        self.state = restore(saved, engine, self.core, self.optimizer, BATCHES, lambda: torch.zeros(()))
        self.step = self.state.step

    def train(self, num_steps: int) -> None:
        """A few steps, each on data that is a function of its number."""
        for _ in range(num_steps):
            generator = torch.Generator().manual_seed(self.step)
            self.engine.begin_step(self.step, 0.1, 1)
            with self.engine.micro_batch():
                self.engine.backward(self.engine.model(torch.randn(4, 5, generator=generator)))
            self.engine.finish_step()
            self.step += 1

    def save(self, step: int, best: Best = NOT_VALIDATED) -> Path:
        """A published checkpoint."""
        self.write(step, best)
        self.checkpoints.finish(self.engine)
        return self.folder / f"step-{step:08d}"

    def write(self, step: int, best: Best = NOT_VALIDATED) -> None:
        """A checkpoint that may not be published yet."""
        self.checkpoints.save(self.engine, state_at(step, best=best))

    def to_resume(self, resume: str, *, identity: dict[str, Any] = IDENTITY) -> Path | None:
        """The checkpoint that a run would resume from."""
        spec = CheckpointSpec(None, 2, False, resume)
        return find.to_resume(self.engine, spec, self.folder, identity, PHASES)


def state_at(step: int, **values: Any) -> TrainState:
    """The state of a run after some steps."""
    return dataclasses.replace(TrainState.new(CPU), step=step, samples=8 * step, **values)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with cpu_engine() as started:
        yield started


@pytest.fixture
def run(tmp_path: Path, engine: Engine) -> Run:
    """A run that has done two steps and saved nothing."""
    run = Run(tmp_path / "checkpoints", engine)
    run.train(2)
    return run


@pytest.fixture
def good(run: Run) -> Path:
    """A checkpoint that verifies."""
    return run.save(2)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, so that NaN equals itself and -0.0 does not equal 0.0."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def steps(folder: Path) -> list[str]:
    """The content of a folder of checkpoints, with temporary folders."""
    return sorted(path.name for path in folder.iterdir())


# --- the tensor file ---

TENSORS = {
    "matrix": torch.arange(15, dtype=torch.float32).reshape(5, 3) / 7,
    "odd": torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38]),
    "empty": torch.empty(0),
    "empty_matrix": torch.empty(4, 0, 2),
    "scalar": torch.tensor(-2.5),
    'name with ü and " and \\': torch.ones(1, 1, 1),
}


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with TensorFileWriter(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)


def test_safetensors_reads_the_tensor_file(tmp_path: Path) -> None:
    write(tmp_path / "file", TENSORS)
    found = load_file(tmp_path / "file")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == torch.float32
        assert found[name].shape == tensor.shape, name
        assert torch.equal(bits(found[name]), bits(tensor)), name
    with safe_open(str(tmp_path / "file"), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensor_file_without_tensors(tmp_path: Path) -> None:
    write(tmp_path / "file", {})
    assert load_file(tmp_path / "file") == {}


def test_tensor_file_takes_any_layout_and_type(tmp_path: Path) -> None:
    given = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "strided": torch.arange(10.0)[::3],
        "expanded": torch.tensor([2.0]).expand(3),
        "bf16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        "trained": torch.ones(2, requires_grad=True),
    }
    write(tmp_path / "file", given)
    for name, tensor in load_file(tmp_path / "file").items():
        assert torch.equal(tensor, given[name].detach().float()), name


@pytest.mark.parametrize("name", ["a" * length for length in range(1, 10)])
def test_tensor_bytes_begin_at_a_multiple_of_8(tmp_path: Path, name: str) -> None:
    """Whatever the length of the header is."""
    tensor = torch.tensor([1.0, 2.0, 3.0])
    write(tmp_path / "file", {name: tensor})
    data = (tmp_path / "file").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length])[name] == {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    assert data[8 + length :] == struct.pack("<3f", 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("second", torch.zeros(3)), ("other", torch.zeros(2)), ("first", torch.zeros(3)), ("first", torch.zeros(2, 1))],
    ids=["out of order", "unknown", "other size", "other shape"],
)
def test_tensor_file_refuses_unannounced_tensors(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    with (
        pytest.raises(AssertionError, match="out of order"),
        TensorFileWriter(tmp_path / "file", {"first": (2,), "second": (3,)}) as file,
    ):
        file.write(name, tensor)


def test_tensor_file_refuses_to_end_early(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="not every tensor"),
        TensorFileWriter(tmp_path / "file", {"first": (2,), "second": (3,)}) as file,
    ):
        file.write("first", torch.zeros(2))


def test_tensor_file_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        TensorFileWriter(tmp_path / "file", {})
    assert (tmp_path / "file").read_text() == "mine"


# --- what a checkpoint holds ---


def test_checkpoint_holds_these_files_only(run: Run, good: Path) -> None:
    assert steps(run.folder) == ["step-00000002"]
    assert sorted(path.name for path in good.iterdir()) == sorted(EVERY_FILE)
    format.verify(good)
    weights = load_file(good / "model.safetensors")
    assert weights.keys() == dict(run.core.named_parameters()).keys()
    for name, parameter in run.core.named_parameters():
        assert torch.equal(bits(weights[name]), bits(parameter.detach()))
    moments = load_file(good / "optimizer.safetensors")
    assert moments.keys() == {f"{key}/{name}" for name in weights for key in ("exp_avg", "exp_avg_sq")}
    for name, parameter in run.core.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[f"{key}/{name}"], run.optimizer.state[parameter][key])
            assert moments[f"{key}/{name}"].any()


STATES = {
    "new": TrainState.new(CPU),
    "counts": state_at(
        12, tokens=torch.tensor(2**40 + 1), skipped_steps=torch.tensor(3), skipped_in_a_row=torch.tensor(2)
    ),
    "loss scale": state_at(12, loss_scale=(65536.0, 17)),
    "hours": state_at(12, seconds=12.5, estimate=(0.5, 400)),
    "phases": state_at(12, phases=(PhaseStart(0, 0), PhaseStart(5, 80))),
    "best": state_at(12, best=Best(2.25, 8, 1)),
    "average": state_at(12, loss_average=LossAverage(3.1415926535897931, 0.1 + 0.2)),
}


@pytest.mark.parametrize("name", list(STATES))
def test_state_survives_json(name: str) -> None:
    state = STATES[name]
    found = TrainState.from_json(json.loads(json.dumps(state.to_json())), CPU)
    assert found == state
    counts = (found.tokens, found.skipped_steps, found.skipped_in_a_row)
    assert all(count.dtype == torch.int64 and count.ndim == 0 for count in counts)
    assert found.to_json().keys() == {item.name for item in dataclasses.fields(TrainState)}


@pytest.mark.parametrize("name", [name for name in STATES if name != "loss scale"])
def test_checkpoint_holds_the_state(run: Run, name: str) -> None:
    state = STATES[name]
    run.checkpoints.save(run.engine, state)
    run.checkpoints.finish(run.engine)
    folder = run.folder / format.name_of(state.step)
    assert TrainState.from_json(format.read_state(folder), CPU) == state
    content = format.read_state(folder)
    assert (content["identity"], content["micro_batch"]) == (IDENTITY, MICRO)
    assert run.checkpoints.last_step == state.step


def test_resumed_run_has_the_same_bits(run: Run, tmp_path: Path) -> None:
    run.train(3)
    saved = run.save(5)
    run.train(4)
    expected = [parameter.detach().clone() for parameter in run.core.parameters()]
    with cpu_engine() as engine:
        resumed = Run(tmp_path / "other", engine, seed=1, saved=saved)
        assert resumed.step == 5
        resumed.train(4)
        for found, value in zip(resumed.core.parameters(), expected, strict=True):
            assert torch.equal(bits(found.detach()), bits(value))
        assert [state["step"] for state in resumed.optimizer.state.values()] == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("micro_batch", [MICRO, 2])
def test_resume_with_another_micro_batch_warns(good: Path, micro_batch: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlm_dist")
    core = Net()
    with cpu_engine() as engine:
        batch = specs.phase("1 hours", micro_size=micro_batch).batch
        restore(good, engine, core, optimizer_of(core), [batch], lambda: torch.zeros(()))
    assert f"resuming from {good} at step 2, 16 samples" in caplog.messages
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (micro_batch != MICRO)
    assert all("the micro-batch is 2 rows, before it was 8" in warning for warning in warnings)


def test_checkpoint_before_the_first_step(tmp_path: Path, engine: Engine) -> None:
    run = Run(tmp_path / "checkpoints", engine)
    point = run.save(0)
    format.verify(point)
    assert not any(moment.any() for moment in load_file(point / "optimizer.safetensors").values())


def test_weights_of_another_model_are_refused(good: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors has no weight"):
        SavedWeights((good,)).load(nn.Linear(5, 3))


# --- verify ---


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n\0")


def link(path: Path) -> None:
    """The same bytes outside the checkpoint."""
    elsewhere = path.parent.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (flip, truncate, empty, append, Path.unlink, link, turn_into_folder)


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_file_is_named(good: Path, name: str, damage: Callable[[Path], None]) -> None:
    format.verify(good)
    damage(good / name)
    with pytest.raises(CheckpointError) as caught:
        format.verify(good)
    assert str(good / name) in str(caught.value)


def test_every_byte_of_a_tensor_file_counts(good: Path) -> None:
    content = (good / "model.safetensors").read_bytes()
    for i in range(len(content)):
        (good / "model.safetensors").write_bytes(content[:i] + bytes([content[i] ^ 0x80]) + content[i + 1 :])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            format.verify(good)
    (good / "model.safetensors").write_bytes(content)
    format.verify(good)


def test_every_byte_of_the_manifest_counts(good: Path) -> None:
    content = (good / "manifest.json").read_bytes()
    for i in range(len(content)):
        (good / "manifest.json").write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            format.verify(good)


@pytest.mark.parametrize("content", ["", "null", "3", "[]", "{}", '{"sha256": 1}', '{"sha256": 1, "files": []}', "\0"])
def test_file_that_is_not_a_manifest_is_refused(good: Path, content: str) -> None:
    (good / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing or not a manifest"):
        format.verify(good)


def test_other_format_is_refused(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = format.FORMAT
    monkeypatch.setattr(format, "FORMAT", version + 1)
    with pytest.raises(CheckpointError, match=rf"has format {version}; this version reads format {version + 1}"):
        format.verify(good)


@pytest.mark.parametrize("name", ["pytorch_model.bin", ".hidden", "model.safetensors.tmp"])
def test_extra_file_is_named(good: Path, name: str) -> None:
    (good / name).write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        format.verify(good)
    assert str(good / name) in str(caught.value)
    assert "not part of the checkpoint" in str(caught.value)


# --- pickles ---


class Trap:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "model.pkl", "optimizer.bin"])
def test_pickle_is_refused_and_never_loaded(run: Run, good: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    trap = pickle.dumps(Trap(mark))
    pickle.loads(trap)
    assert mark.exists(), "the trap does not work"
    mark.unlink()

    (good / name).write_bytes(trap)
    with pytest.raises(CheckpointError) as caught:
        format.verify(good)
    assert str(good / name) in str(caught.value)
    assert find.newest(run.folder)[0] is None
    for resume in ("auto", str(good)):
        with pytest.raises(CheckpointError):
            run.to_resume(resume)
    # Nor without verification.
    with contextlib.suppress(SafetensorError):
        SavedWeights((good,)).load(run.core)
    with contextlib.suppress(SafetensorError):
        restore(good, run.engine, run.core, run.optimizer, BATCHES, lambda: torch.zeros(()))
    assert not mark.exists()


PICKLING_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_NAMES = {
    *("torch.load", "torch.save", "torch.serialization", "torch.distributed.checkpoint"),
    *("torch.package", "torch.jit.load", "np.lib.format", "numpy.lib.format"),
}
PICKLING_METHODS = {"load_state", "save_state", "load_checkpoint", "save_checkpoint", "read_pickle", "to_pickle"}


def pickling(source: str) -> list[str]:
    """Names in a module that can read or write a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
            if node.attr in PICKLING_METHODS:
                found.append(names[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            allowed = [keyword.value for keyword in node.keywords if keyword.arg == "allow_pickle"]
            if [ast.unparse(value) for value in allowed] != ["False"]:
                found.append(ast.unparse(node))
        found += [name for name in names if name.split(".")[0] in PICKLING_MODULES or name in PICKLING_NAMES]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "mlm_dist").rglob("*.py")), ids=lambda path: path.stem)
def test_package_uses_no_pickle(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.stem == "checkpoint_files":  # pytorch_model.bin is read without running code
        assert pickling(text) == ["torch.load"] and 'torch.load(path, map_location="cpu", weights_only=True)' in text
    elif path.stem == "files":  # the header of an .npy file, which holds no values
        assert {*pickling(text)} == {"np.lib.format"}
        assert {*re.findall(r"np\.lib\.format\.(\w+)", text)} == {"dtype_to_descr", "write_array_header_1_0"}
    else:
        assert pickling(text) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import dill as d",
        "from pickle import loads",
        "from torch import save",
        "import torch\ntorch.load('x', weights_only=True)",
        "accelerator.save_state('x')",
        "self.accelerator.load_state('x')",
        "model.load_checkpoint('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x')",
    ],
)
def test_use_of_pickle_is_found(source: str) -> None:
    assert pickling(source)


# --- newest ---


def test_newest_skips_damaged_checkpoints(run: Run) -> None:
    run.checkpoints = Checkpoints(run.folder, CheckpointSpec(None, 4, False, "auto"), IDENTITY, BATCHES)
    for step in (2, 4, 6, 100_000_000):
        run.save(step)
    assert find.newest(run.folder) == (run.folder / "step-100000000", [])
    flip(run.folder / "step-100000000" / "model.safetensors")
    (run.folder / "step-00000006" / "state.json").unlink()
    found, problems = find.newest(run.folder)
    assert found == run.folder / "step-00000004"
    assert len(problems) == 2
    assert "step-100000000/model.safetensors" in problems[0]
    assert "step-00000006/state.json" in problems[1]


def test_newest_takes_published_checkpoints_only(run: Run, good: Path) -> None:
    """Each of the others holds a whole checkpoint; only its name is wrong."""
    for name in (".step-00000099", "step-1", "step-xyz", "step-00000099x", "xstep-00000099", "step-00000099.old"):
        shutil.copytree(good, run.folder / name)
        format.verify(run.folder / name)
    (run.folder / "step-00000098").write_text("a file, not a folder")
    assert find.newest(run.folder) == (good, [])
    shutil.rmtree(good)
    assert find.newest(run.folder) == (None, [])


def test_newest_of_nothing(tmp_path: Path) -> None:
    assert find.newest(tmp_path / "nowhere") == (None, [])


# --- saving ---


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_keep_last_checkpoints_are_kept(tmp_path: Path, engine: Engine, keep_last: int) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=keep_last)
    for step in range(1, 6):
        run.save(step)
        kept = range(max(1, step - keep_last + 1), step + 1)
        assert steps(run.folder) == [f"step-{i:08d}" for i in kept]
        for path in run.folder.iterdir():
            format.verify(path)


def test_old_checkpoint_stays_until_the_new_one_is_published(tmp_path: Path, engine: Engine) -> None:
    """A file has the new one's name, so the save fails at its last moment."""
    run = Run(tmp_path / "checkpoints", engine, keep_last=1)
    old = run.save(4)
    (run.folder / "step-00000008").write_text("in the way")
    with pytest.raises(CheckpointError, match="step 8 cannot be written") as caught:
        run.save(8)
    assert str(run.folder) in str(caught.value)
    assert "the last good one is intact" in str(caught.value)
    format.verify(old)
    assert steps(run.folder) == ["step-00000004", "step-00000008"], "the temporary folder was left"


def test_failure_while_publishing_is_raised_by_the_next_save(tmp_path: Path, engine: Engine) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=1)
    run.save(4)
    (run.folder / "step-00000008").write_text("in the way")
    run.write(8)
    with pytest.raises(CheckpointError, match="step 8 cannot be written"):
        run.write(12)
    assert find.newest(run.folder) == (run.folder / "step-00000004", [])


def test_saving_over_a_damaged_checkpoint(run: Run, good: Path) -> None:
    flip(good / "model.safetensors")
    run.save(2)
    format.verify(good)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_damaged_newer_checkpoint_does_not_replace_a_good_one(tmp_path: Path, engine: Engine, keep_last: int) -> None:
    """A run that resumes from an older checkpoint saves between the two."""
    run = Run(tmp_path / "checkpoints", engine, keep_last=keep_last)
    run.save(4)
    shutil.copytree(run.folder / "step-00000004", tmp_path / "copy")
    run.save(8)
    flip(run.folder / "step-00000008" / "model.safetensors")
    if keep_last == 1:
        shutil.copytree(tmp_path / "copy", run.folder / "step-00000004")
    assert run.to_resume("auto") == run.folder / "step-00000004"
    again = Run(run.folder, engine, keep_last=keep_last)
    again.save(6)
    assert find.newest(run.folder)[0] == run.folder / "step-00000006"


def test_newer_checkpoints_are_archived_when_an_older_one_is_resumed(tmp_path: Path, engine: Engine) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=2)
    older = run.save(4)
    run.save(8)
    again = Run(run.folder, engine, keep_last=2)
    assert again.to_resume(str(older)) == older
    assert RunDir(tmp_path).archive(older) == tmp_path / "previous-1"
    assert steps(tmp_path / "previous-1") == ["step-00000008"]
    again.save(6)
    assert again.to_resume("auto") == run.folder / "step-00000006"


def test_remains_of_interrupted_saves_are_removed(run: Run, good: Path) -> None:
    shutil.copytree(good, run.folder / ".step-00000004")
    (run.folder / "step-1").mkdir()
    RunDir(run.folder.parent).clean()
    assert steps(run.folder) == ["step-00000002", "step-1"]


def test_checkpoint_that_cannot_be_removed_is_not_left_in_parts(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails while an old checkpoint is removed: readers never find a part of it."""
    run = Run(tmp_path / "checkpoints", engine, keep_last=1)
    old = run.save(2)
    remove = shutil.rmtree

    def failing(path: Path, **_: Any) -> None:
        if Path(path).is_dir():
            next(file for file in Path(path).iterdir() if file.name == "manifest.json").unlink()

    monkeypatch.setattr(shutil, "rmtree", failing)
    run.save(4)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert not old.exists()
    assert steps(run.folder) == [".step-00000002.removed", "step-00000004"]
    RunDir(run.folder.parent).clean()
    assert steps(run.folder) == ["step-00000004"]


def test_old_checkpoint_that_could_not_be_removed_is_at_the_next_start(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=1)
    run.save(2)
    with monkeypatch.context() as context:
        context.setattr(save, "_remove", lambda path: None)
        run.save(4)
    assert steps(run.folder) == ["step-00000002", "step-00000004"]
    run.checkpoints.tidy(state_at(2))  # not resumed from the newest one
    assert steps(run.folder) == ["step-00000002", "step-00000004"]
    run.checkpoints.tidy(state_at(4))
    assert steps(run.folder) == ["step-00000004"]


def test_full_disk_while_saving(tmp_path: Path, engine: Engine) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        run = Run(disk / "checkpoints", engine, keep_last=1)
        old = run.save(4)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 4096)
        with pytest.raises(CheckpointError, match=r"step 8 cannot be written.*No space left on device") as caught:
            run.save(8)
        message = str(caught.value)
        assert str(disk) in message
        assert "\n" not in message
        del caught
        gc.collect()  # a file that was left open is a warning here
        format.verify(old)
        assert steps(disk / "checkpoints") == ["step-00000004"]
        (disk / "filler").unlink()
        again = Run(disk / "checkpoints", engine, keep_last=1)
        format.verify(again.save(8))


# --- staging ---


def staged(run: Run, count: int = 1000) -> Checkpoints:
    """The checkpoints of a run whose values go through host memory, as those of a GPU do."""
    spec = CheckpointSpec(None, 2, False, "auto")
    return Checkpoints(run.folder, spec, IDENTITY, BATCHES, HostBuffer(count, pinned=False))


@pytest.mark.parametrize("block", [1 << 20, 4])
def test_staged_values_are_those_of_the_step(run: Run, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever training does while the thread writes; values may be spread over several blocks."""
    expected = {path.name: path.read_bytes() for path in run.save(2).iterdir() if path.suffix == ".safetensors"}
    monkeypatch.setattr(host_buffer, "BLOCK", block)
    run.checkpoints = staged(run, 64)
    for step in (4, 6):  # the memory is used again
        run.write(step)
        with torch.no_grad():
            before = [(value, value.clone()) for value in run.core.parameters()]
            for value, _ in before:
                value.fill_(9.0)
            run.checkpoints.finish(run.engine)
            for value, old in before:
                value.copy_(old)
        folder = run.folder / format.name_of(step)
        format.verify(folder)
        assert {name: (folder / name).read_bytes() for name in expected} == expected


def test_staged_checkpoint_that_the_disk_cannot_hold_is_refused_at_once(tmp_path: Path, engine: Engine) -> None:
    """Not by the thread, when training has gone on."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        run = Run(disk / "checkpoints", engine, keep_last=1)
        run.checkpoints = staged(run)
        old = run.save(4)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 4096)
        with pytest.raises(CheckpointError, match=r"step 8 cannot be written.*No space left on device"):
            run.write(8)
        format.verify(old)
        assert steps(disk / "checkpoints") == ["step-00000004"]


def test_failure_while_writing_staged_values_is_raised_by_the_next_save(
    run: Run, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoints = staged(run)
    write = TensorFileWriter._write_values

    def fail(self: TensorFileWriter, values: torch.Tensor) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(TensorFileWriter, "_write_values", fail)
    run.write(4)
    run.checkpoints.wait()
    monkeypatch.setattr(TensorFileWriter, "_write_values", write)
    with pytest.raises(CheckpointError, match=r"step 4 cannot be written.*Input/output error"):
        run.write(6)
    assert steps(run.folder) == [good.name]


def test_values_are_written_from_where_they_are_without_a_gpu(engine: Engine) -> None:
    """On the CPU a second copy would cost memory and time."""
    assert HostBuffer.of(engine) is None


# --- completeness ---


def test_trained_parameter_without_moments_is_an_internal_error(run: Run) -> None:
    del run.optimizer.state[run.core.linear.bias]
    with pytest.raises(RuntimeError, match=r"exp_avg/linear\.bias is None instead of torch\.float32 \(3,\)"):
        run.save(2)
    assert steps(run.folder) == [".step-00000002"], "an incomplete checkpoint was published"


def test_trained_parameter_that_the_optimizer_lost_is_an_internal_error(run: Run) -> None:
    run.core.linear.bias = nn.Parameter(run.core.linear.bias.detach().clone())
    with pytest.raises(RuntimeError, match=r"linear\.bias is trained, but the optimizer does not have it"):
        run.save(2)


@pytest.mark.parametrize("part", ["exp_avg/linear.bias", "linear.bias"])
def test_value_that_is_not_fp32_is_an_internal_error(run: Run, part: str) -> None:
    bias = run.core.linear.bias
    if part == "linear.bias":
        bias.data = bias.data.bfloat16()
    else:
        run.optimizer.state[bias]["exp_avg"] = run.optimizer.state[bias]["exp_avg"].bfloat16()
    with pytest.raises(RuntimeError, match=rf"{part} is torch\.bfloat16 \(3,\) instead of torch\.float32 \(3,\)"):
        run.save(2)


def test_moments_of_a_parameter_without_a_gradient_are_zero(tmp_path: Path, engine: Engine) -> None:
    class WithPooler(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = nn.Linear(2, 2)

    run = Run(tmp_path / "checkpoints", engine)
    run.core = WithPooler()
    run.optimizer = optimizer_of(run.core)
    engine.setup(run.core, run.optimizer)
    run.train(1)
    moments = load_file(run.save(1) / "optimizer.safetensors")
    assert not moments["exp_avg/pooler.weight"].any() and moments["exp_avg/linear.weight"].any()


def test_moments_are_read_by_rows(run: Run, good: Path) -> None:
    class Reading:
        """An engine that reads some rows, as a rank under FSDP2 does."""

        device = CPU
        is_main = False

        def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            pass

        def load(self, state: FullState, example_loss: Callable[[], torch.Tensor]) -> None:
            self.rows = state.moments("exp_avg", "linear.weight", slice(1, 3))
            self.none = state.moments("exp_avg", "linear.weight", slice(3, 3))
            self.scalar = state.moments("exp_avg", "temperature", slice(None))

    reading: Any = Reading()
    restore(good, reading, run.core, run.optimizer, BATCHES, lambda: torch.zeros(()))
    whole = load_file(good / "optimizer.safetensors")
    assert torch.equal(reading.rows, whole["exp_avg/linear.weight"][1:3])
    assert reading.rows.untyped_storage().nbytes() == 4 * 2 * 5, "it holds the file open"
    assert reading.none.shape == (0, 5)
    assert torch.equal(reading.scalar, whole["exp_avg/temperature"])


# --- the best ---


def test_losses_on_other_rows_are_not_compared(tmp_path: Path, engine: Engine) -> None:
    """validation.max_rows and the sources that count may change between two parts of a run."""
    earlier = Best(2.0, 4, 1, rows="50 of 50 of own")
    assert earlier.on_rows("50 of 50 of own") == earlier
    assert earlier.on_rows("50 of 80 of own, other") == Best(rows="50 of 80 of own, other")
    best = earlier.on_rows("10 of 50 of own").after(6, 3.0).after(8, 3.5)
    assert best == Best(3.0, 6, 1, rows="10 of 50 of own")
    run = Run(tmp_path / "checkpoints", engine, keep_last=4, keep_best=True)
    run.save(4, Best(2.0, 4))
    for step, loss in ((6, 3.0), (8, 3.5)):
        run.save(step, Best(3.0, 6, rows="10") if loss == 3.5 else Best(loss, step, rows="10"))
    assert find.best(run.folder) == (run.folder / "step-00000006", [])


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [4, 12]), (2, [4, 10, 12]), (5, [2, 4, 8, 10, 12])])
def test_best_is_kept_beside_the_last_ones(tmp_path: Path, engine: Engine, keep_last: int, kept: list[int]) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=keep_last, keep_best=True)
    best = Best()
    for step, loss in ((2, 3.0), (4, 2.0), (8, 2.5), (10, 2.2), (12, 2.1)):
        best = best.after(step, loss)
        run.save(step, best)
    assert steps(run.folder) == [f"step-{step:08d}" for step in kept]
    assert find.best(run.folder) == (run.folder / "step-00000004", [])
    saved = format.read_state(run.folder / "step-00000012")
    assert TrainState.from_json(saved, CPU).best == Best(2.0, 4, 3)
    assert run.checkpoints.known_best(Best(2.0, 4, 3)) == Best(2.0, 4, 3)
    run.save(14, best.after(14, 1.0))
    assert find.best(run.folder)[0] == run.folder / "step-00000014"
    assert keep_last == 5 or not (run.folder / "step-00000004").exists(), "it is no longer the best"


def test_missing_or_damaged_checkpoint_is_not_the_best(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "checkpoints", engine, keep_last=2, keep_best=True)
    first, second = run.save(4, Best(2.0, 4)), run.save(8, Best(1.0, 8))
    flip(second / "model.safetensors")
    found, problems = find.best(run.folder)
    assert found == first
    assert "step-00000008/model.safetensors is damaged" in problems[0]
    shutil.rmtree(first)
    caplog.clear()
    with pytest.raises(CheckpointError, match=r"no good checkpoint in .* is known to be the best; export newest"):
        find.require_best(run.folder)
    assert "skipped a checkpoint that is not good" in caplog.messages[0]
    assert run.checkpoints.known_best(Best(2.0, 4, 5)) == Best(), "a missing checkpoint cannot be exported"
    with cpu_engine() as another:
        newest_only = Run(tmp_path / "others", another).checkpoints
        assert newest_only.known_best(Best(2.0, 4, 5)) == Best(2.0, 4, 5), "the best is not exported"


# --- resuming ---


def test_same_identity_is_accepted(tmp_path: Path) -> None:
    format.write_state(tmp_path, TrainState.new(CPU).to_json(), IDENTITY | {"model.overrides.removed": 1}, MICRO)
    same_run.require_same(tmp_path, IDENTITY, PHASES)
    same_run.require_same(tmp_path, IDENTITY | {"model.overrides.new_in_a_library": 1}, PHASES)


@pytest.mark.parametrize("key", [*OF_RUN, *OF_PHASE])
@pytest.mark.parametrize("theirs", [99, None])
def test_other_identity_names_the_key_and_the_flag(key: str, theirs: int | None, tmp_path: Path) -> None:
    other = IDENTITY | {key: theirs} if key in OF_RUN else IDENTITY | {"phases": [OF_PHASE | {key: theirs}] * 2}
    format.write_state(tmp_path, TrainState.new(CPU).to_json(), other, MICRO)
    with pytest.raises(CheckpointError) as caught:
        same_run.require_same(tmp_path, IDENTITY, PHASES)
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert f"made with {theirs}, now it is {(OF_RUN | OF_PHASE)[key]};" in message
    assert NEVER in message


def test_auto_starts_fresh_without_checkpoints(run: Run) -> None:
    assert run.to_resume("auto") is None


def test_auto_takes_the_newest_good_one(run: Run, good: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = run.save(4)
    assert run.to_resume("auto") == newer and not caplog.messages
    truncate(newer / "optimizer.safetensors")
    assert run.to_resume("auto") == good
    (message,) = caplog.messages
    assert message.startswith("skipped a checkpoint that is not good: ")
    assert str(newer / "optimizer.safetensors") in message


def test_auto_without_a_good_one_refuses_to_start_fresh(run: Run, good: Path) -> None:
    flip(good / "state.json")
    with pytest.raises(CheckpointError) as caught:
        run.to_resume("auto")
    assert str(good / "state.json") in str(caught.value)
    assert NEVER in str(caught.value)


def test_never_ignores_checkpoints(run: Run, good: Path) -> None:
    assert run.to_resume("never") is None
    flip(good / "state.json")
    assert run.to_resume("never", identity=IDENTITY | {"seed": 8}) is None


@pytest.mark.parametrize("form", ["absolute", "relative", "home", "slash"])
def test_named_checkpoint_is_taken(
    run: Run, good: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    tail = "checkpoints/step-00000002"
    resume = {"absolute": str(good), "relative": tail, "home": f"~/{tail}", "slash": f"{good}/"}[form]
    found = run.to_resume(resume)
    assert found is not None
    assert found.resolve() == good.resolve()


def test_named_checkpoint_must_be_good(run: Run, good: Path) -> None:
    newer = run.save(4)
    flip(newer / "model.safetensors")
    with pytest.raises(CheckpointError, match=str(newer / "model.safetensors")):
        run.to_resume(str(newer))
    for wrong in (str(good.parent), str(good.parent / "step-00000009"), "latest", str(good / "state.json")):
        with pytest.raises(CheckpointError, match=rf"checkpoint\.resume: {wrong} is no checkpoint"):
            run.to_resume(wrong)


def test_checkpoint_of_another_run_may_be_gone_once_the_run_has_its_own(run: Run, good: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "elsewhere" / "checkpoints" / "step-00000005")
    assert run.to_resume(gone) == good
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match=r"checkpoint\.resume: .*step-00000005 is no checkpoint"):
        run.to_resume(gone)


def test_folder_that_is_no_checkpoint_is_refused_with_the_newest_one_near_it(good: Path) -> None:
    for near in (good.parent, good.parent.parent, good.parent / "step-00000009"):
        with pytest.raises(CheckpointError, match=rf"{near} is no checkpoint; name {good}$"):
            find.folder_of(str(near), "checkpoint.resume")


@pytest.mark.parametrize("resume", ["auto", "by name"])
def test_checkpoint_of_another_run_is_refused(run: Run, good: Path, resume: str) -> None:
    with pytest.raises(CheckpointError, match=r"^seed: .*made with 7, now it is 8"):
        run.to_resume("auto" if resume == "auto" else str(good), identity=IDENTITY | {"seed": 8})
