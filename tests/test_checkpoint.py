"""Checkpoints: what is written, what is refused, and what is never lost."""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import math
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from launching import ROOT
from mlm_dist.checkpoint.best import Best
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from mlm_dist.checkpoint import find, format, save
from mlm_dist.checkpoint.format import RunState
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.checkpoint.tensor_file import TensorFileWriter
from mlm_dist.errors import CheckpointError

IDENTITY = {"seed": 7, "batch.global_size": 8, "masking.probability": 0.15}
EVERY_FILE = (*format.FILES, "manifest.json")
NEVER = "--checkpoint.resume never"
NOT_VALIDATED = Best()


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own that is full soon; the test is skipped where none may be mounted."""
    place.mkdir(parents=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here ({error})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


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


class Run:
    """A run of a tiny model on this very process, and its checkpoints."""

    def __init__(self, folder: Path, *, keep_last: int = 2, seed: int = 0, keep_best: bool = False) -> None:
        self.folder = folder
        self.accelerator = Accelerator(cpu=True)
        self.core = Net(seed)
        self.model, self.optimizer = self.accelerator.prepare(
            self.core, torch.optim.AdamW(self.core.parameters(), lr=0.1, fused=True)
        )
        self.checkpoints = Checkpoints(folder, keep_last, IDENTITY, keep_best=keep_best)
        self.step = 0

    def train(self, num_updates: int) -> None:
        """A few updates, each on data that follows from its number."""
        for _ in range(num_updates):
            generator = torch.Generator().manual_seed(self.step)
            self.accelerator.backward(self.model(torch.randn(4, 5, generator=generator)))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1

    def save(self, step: int, best: Best = NOT_VALIDATED) -> Path:
        """A published checkpoint."""
        state = RunState(step=step, samples=8 * step, best=best)
        self.checkpoints.save(self.accelerator, self.core, self.optimizer, state)
        self.checkpoints.finish(self.accelerator)
        return self.folder / f"step-{step:08d}"

    def resume_point(self, resume: str, *, identity: dict[str, Any] = IDENTITY) -> tuple[Path | None, list[str]]:
        """Where a run would go on, and what it would say."""
        said: list[str] = []
        return find.resume_point(self.accelerator, resume, self.folder, identity, said.append), said


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has done two updates and saved nothing."""
    run = Run(tmp_path / "checkpoints")
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
    """What is in a folder of checkpoints, temporaries included."""
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


def test_tensor_file_is_what_safetensors_reads(tmp_path: Path) -> None:
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
    ids=["out of turn", "unknown", "other size", "other shape"],
)
def test_tensor_file_refuses_what_was_not_announced(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    with (
        pytest.raises(AssertionError, match="out of turn"),
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
            assert torch.equal(moments[f"{key}/{name}"], run.optimizer.optimizer.state[parameter][key])
            assert moments[f"{key}/{name}"].any()


@pytest.mark.parametrize("scale", [None, (65536.0, 17), (0.5, 0)])
def test_state_comes_back(run: Run, scale: tuple[float, int] | None) -> None:
    state = RunState(step=12, samples=96, tokens=2**40 + 1, skipped_steps=3, loss_scale=scale)
    run.checkpoints.save(run.accelerator, run.core, run.optimizer, state)
    run.checkpoints.finish(run.accelerator)
    assert format.read_state(run.folder / "step-00000012") == (state, IDENTITY)
    assert run.checkpoints.last_step == 12


def test_run_goes_on_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    run.train(3)
    point = run.save(5)
    run.train(4)
    other = Run(tmp_path / "other", seed=1)
    state, _ = format.read_state(point)
    format.load_weights(point, other.core)
    format.load_moments(point, other.accelerator, other.core, other.optimizer, state)
    other.step = state.step
    other.train(4)
    for ours, theirs in zip(other.core.parameters(), run.core.parameters(), strict=True):
        assert torch.equal(bits(ours.detach()), bits(theirs.detach()))
    assert [state["step"] for state in other.optimizer.optimizer.state.values()] == [9.0, 9.0, 9.0]


def test_checkpoint_before_the_first_update(tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoints")
    point = run.save(0)
    format.verify(point)
    assert not any(moment.any() for moment in load_file(point / "optimizer.safetensors").values())


def test_weights_of_another_model_are_refused(good: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors has no weight"):
        format.load_weights(good, nn.Linear(5, 3))


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
    """The same bytes, but somewhere else, where nobody watches over them."""
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
def test_manifest_that_is_none(good: Path, content: str) -> None:
    (good / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing or not a manifest"):
        format.verify(good)


def test_other_format_is_refused(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format, "FORMAT", format.FORMAT + 1)
    with pytest.raises(CheckpointError, match=r"has format 1; this version reads format 2"):
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
    """A pickle that leaves a mark when somebody loads it."""

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
            run.resume_point(resume)
    # Even those that do not verify first load no pickle.
    with contextlib.suppress(SafetensorError):
        format.load_weights(good, run.core)
    with contextlib.suppress(SafetensorError):
        format.load_moments(good, run.accelerator, run.core, run.optimizer, RunState(2))
    assert not mark.exists()


PICKLING_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_NAMES = {
    *("torch.load", "torch.save", "torch.serialization", "torch.distributed.checkpoint"),
    *("torch.package", "torch.jit.load", "np.lib.format", "numpy.lib.format"),
}
PICKLING_METHODS = {"load_state", "save_state", "load_checkpoint", "save_checkpoint", "read_pickle", "to_pickle"}


def pickling(source: str) -> list[str]:
    """What in a module could read or write a pickle."""
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
def test_package_knows_no_pickle(path: Path) -> None:
    assert pickling(path.read_text("utf-8")) == []


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
def test_pickles_would_be_found(source: str) -> None:
    assert pickling(source)


# --- newest ---


def test_newest_passes_over_what_is_damaged(run: Run) -> None:
    run.checkpoints = Checkpoints(run.folder, 4, IDENTITY)
    for step in (2, 4, 6, 100_000_000):
        run.save(step)
    assert find.newest(run.folder) == (run.folder / "step-100000000", [])
    flip(run.folder / "step-100000000" / "model.safetensors")
    (run.folder / "step-00000006" / "state.json").unlink()
    found, passed_over = find.newest(run.folder)
    assert found == run.folder / "step-00000004"
    assert len(passed_over) == 2
    assert "step-100000000/model.safetensors" in passed_over[0]
    assert "step-00000006/state.json" in passed_over[1]


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
def test_keep_last_is_honoured(tmp_path: Path, keep_last: int) -> None:
    run = Run(tmp_path / "checkpoints", keep_last=keep_last)
    for step in range(1, 6):
        run.save(step)
        kept = range(max(1, step - keep_last + 1), step + 1)
        assert steps(run.folder) == [f"step-{i:08d}" for i in kept]
        for path in run.folder.iterdir():
            format.verify(path)


def test_old_checkpoint_stays_until_the_new_one_is_there(tmp_path: Path) -> None:
    """Something is in the new one's place: the save fails at its last moment."""
    run = Run(tmp_path / "checkpoints", keep_last=1)
    old = run.save(4)
    (run.folder / "step-00000008").write_text("in the way")
    with pytest.raises(CheckpointError, match="step 8 cannot be written") as caught:
        run.save(8)
    assert str(run.folder) in str(caught.value)
    assert "the last good one is intact" in str(caught.value)
    format.verify(old)
    assert steps(run.folder) == ["step-00000004", "step-00000008"], "the temporary folder was left"


def test_failure_while_publishing_is_raised_by_the_next_save(tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoints", keep_last=1)
    run.save(4)
    (run.folder / "step-00000008").write_text("in the way")
    run.checkpoints.save(run.accelerator, run.core, run.optimizer, RunState(8))
    with pytest.raises(CheckpointError, match="step 8 cannot be written"):
        run.checkpoints.save(run.accelerator, run.core, run.optimizer, RunState(12))
    assert find.newest(run.folder) == (run.folder / "step-00000004", [])


def test_saving_over_a_damaged_checkpoint(run: Run, good: Path) -> None:
    flip(good / "model.safetensors")
    run.save(2)
    format.verify(good)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_damaged_newer_checkpoint_pushes_no_good_one_out(tmp_path: Path, keep_last: int) -> None:
    """A run that fell back to an older checkpoint saves between the two."""
    run = Run(tmp_path / "checkpoints", keep_last=keep_last)
    run.save(4)
    shutil.copytree(run.folder / "step-00000004", tmp_path / "aside")
    run.save(8)
    flip(run.folder / "step-00000008" / "model.safetensors")
    if keep_last == 1:
        shutil.copytree(tmp_path / "aside", run.folder / "step-00000004")
    assert run.resume_point("auto")[0] == run.folder / "step-00000004"
    again = Run(run.folder, keep_last=keep_last)
    again.save(6)
    assert find.newest(run.folder)[0] == run.folder / "step-00000006"


def test_abandoned_newer_checkpoint_does_not_win(tmp_path: Path) -> None:
    """A run that went on from an older checkpoint by name leaves the newer ones behind for good."""
    run = Run(tmp_path / "checkpoints", keep_last=2)
    older = run.save(4)
    run.save(8)
    again = Run(run.folder, keep_last=2)
    assert again.resume_point(str(older))[0] == older
    assert find.set_aside(tmp_path, older) == tmp_path / "previous-1"
    again.save(6)
    assert again.resume_point("auto")[0] == run.folder / "step-00000006"


def test_clean_removes_what_interrupted_saves_left(run: Run, good: Path) -> None:
    shutil.copytree(good, run.folder / ".step-00000004")
    (run.folder / "step-1").mkdir()
    run.checkpoints.clean()
    assert steps(run.folder) == ["step-00000002", "step-1"]


def test_full_disk_while_saving(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        run = Run(disk / "checkpoints", keep_last=1)
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
        gc.collect()  # a file that was left open speaks up here
        format.verify(old)
        assert steps(disk / "checkpoints") == ["step-00000004"]
        (disk / "filler").unlink()
        again = Run(disk / "checkpoints", keep_last=1)
        format.verify(again.save(8))


# --- the best ---


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [4, 12]), (2, [4, 10, 12]), (5, [2, 4, 8, 10, 12])])
def test_best_is_kept_beside_the_last_ones(tmp_path: Path, keep_last: int, kept: list[int]) -> None:
    run = Run(tmp_path / "checkpoints", keep_last=keep_last, keep_best=True)
    best = Best()
    for step, loss in ((2, 3.0), (4, 2.0), (8, 2.5), (10, 2.2), (12, 2.1)):
        best = best.after(step, loss)
        run.save(step, best)
    assert steps(run.folder) == [f"step-{step:08d}" for step in kept]
    assert find.best(run.folder) == (run.folder / "step-00000004", [])
    assert format.read_state(run.folder / "step-00000012")[0].best == Best(2.0, 4, 3)
    assert run.checkpoints.still_there(Best(2.0, 4, 3)) == Best(2.0, 4, 3)
    run.save(14, best.after(14, 1.0))
    assert find.best(run.folder)[0] == run.folder / "step-00000014"
    assert keep_last == 5 or not (run.folder / "step-00000004").exists(), "it is no longer the best"


def test_best_that_is_gone_or_damaged_is_none(tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoints", keep_last=2, keep_best=True)
    first, second = run.save(4, Best(2.0, 4)), run.save(8, Best(1.0, 8))
    flip(second / "model.safetensors")
    found, passed_over = find.best(run.folder)
    assert found == first
    assert "step-00000008/model.safetensors is damaged" in passed_over[0]
    shutil.rmtree(first)
    said: list[str] = []
    with pytest.raises(CheckpointError, match=r"no good checkpoint in .* is known to be the best; export newest"):
        find.require_best(run.folder, said.append)
    assert "passed over a checkpoint" in said[0]
    assert run.checkpoints.still_there(Best(2.0, 4, 5)) == Best(), "what is gone cannot be exported"
    assert Run(tmp_path / "others").checkpoints.still_there(Best(2.0, 4, 5)) == Best(2.0, 4, 5), "nor is it to be"


def test_checkpoint_of_before_there_was_a_best_still_loads(run: Run, good: Path) -> None:
    state = json.loads((good / "state.json").read_text("utf-8"))
    del state["best"]
    (good / "state.json").write_text(json.dumps(state), "utf-8")
    assert format.read_state(good)[0] == RunState(step=2, samples=16)


# --- going on ---


def test_same_identity_is_let_through(tmp_path: Path) -> None:
    format.require_same(IDENTITY, dict(IDENTITY), tmp_path)
    format.require_same(IDENTITY | {"of an older version": 1}, IDENTITY, tmp_path)


def test_checkpoints_older_than_a_key_were_made_with_its_default(tmp_path: Path) -> None:
    older = {"masking.probability": 0.15}
    default = older | {"masking.unit": "token", "masking.final_probability": None}
    format.require_same(older, default, tmp_path)
    for key, value in (("masking.unit", "word"), ("masking.final_probability", 0.3)):
        with pytest.raises(CheckpointError, match=rf"^{key}: .*now it is {value};"):
            format.require_same(older, default | {key: value}, tmp_path)
        with pytest.raises(CheckpointError, match=rf"^{key}: .*made with {value},"):
            format.require_same(default | {key: value}, default, tmp_path)


@pytest.mark.parametrize("key", list(IDENTITY))
@pytest.mark.parametrize("theirs", [99, None])
def test_other_identity_names_the_key_and_the_flag(key: str, theirs: int | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        format.require_same(IDENTITY | {key: theirs}, IDENTITY, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert f"made with {theirs}, now it is {IDENTITY[key]};" in message
    assert NEVER in message


def test_auto_without_checkpoints_begins(run: Run) -> None:
    assert run.resume_point("auto") == (None, [])


def test_auto_takes_the_newest_good_one(run: Run, good: Path) -> None:
    newer = run.save(4)
    assert run.resume_point("auto") == (newer, [])
    truncate(newer / "optimizer.safetensors")
    point, said = run.resume_point("auto")
    assert point == good
    assert len(said) == 1
    assert said[0].startswith("WARNING: passed over a checkpoint: ")
    assert str(newer / "optimizer.safetensors") in said[0]


def test_auto_with_nothing_good_refuses_to_begin_anew(run: Run, good: Path) -> None:
    flip(good / "state.json")
    with pytest.raises(CheckpointError) as caught:
        run.resume_point("auto")
    assert str(good / "state.json") in str(caught.value)
    assert NEVER in str(caught.value)


def test_never_looks_at_nothing(run: Run, good: Path) -> None:
    assert run.resume_point("never") == (None, [])
    flip(good / "state.json")
    assert run.resume_point("never", identity={"seed": 8}) == (None, [])


@pytest.mark.parametrize("form", ["absolute", "relative", "home", "slash"])
def test_named_checkpoint_is_taken(
    run: Run, good: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    tail = "checkpoints/step-00000002"
    resume = {"absolute": str(good), "relative": tail, "home": f"~/{tail}", "slash": f"{good}/"}[form]
    point, said = run.resume_point(resume)
    assert point is not None
    assert point.resolve() == good.resolve()
    assert said == []


def test_named_checkpoint_must_be_good(run: Run, good: Path) -> None:
    newer = run.save(4)
    flip(newer / "model.safetensors")
    with pytest.raises(CheckpointError, match=str(newer / "model.safetensors")):
        run.resume_point(str(newer))
    for wrong in (str(good.parent), str(good.parent / "step-00000009"), "latest", str(good / "state.json")):
        with pytest.raises(CheckpointError, match=rf"checkpoint\.resume: {wrong} is no checkpoint"):
            run.resume_point(wrong)


@pytest.mark.parametrize("resume", ["auto", "by name"])
def test_checkpoint_of_another_run_is_refused(run: Run, good: Path, resume: str) -> None:
    with pytest.raises(CheckpointError, match=r"^seed: .*made with 7, now it is 8"):
        run.resume_point("auto" if resume == "auto" else str(good), identity=IDENTITY | {"seed": 8})


# --- a new run in an old directory ---


def old_run(folder: Path, text: str) -> None:
    """What a finished run leaves."""
    for name in ("checkpoints/step-00000004/state.json", "metrics.jsonl", "tensorboard/events", "model/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "config.yaml").write_text(text)


def test_set_aside_moves_and_never_overwrites(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        old_run(tmp_path, f"run {number}")
        assert find.set_aside(tmp_path) == tmp_path / f"previous-{number}"
        for name in ("checkpoints", "metrics.jsonl", "tensorboard"):
            assert not (tmp_path / name).exists()
    for number in (1, 2, 3):
        for name in ("checkpoints/step-00000004/state.json", "metrics.jsonl", "tensorboard/events"):
            assert (tmp_path / f"previous-{number}" / name).read_text() == f"run {number}"


def test_set_aside_takes_all_that_a_new_run_would_replace(tmp_path: Path) -> None:
    """The trained model and the config it was trained with are part of a run too."""
    old_run(tmp_path, "old")
    place = find.set_aside(tmp_path)
    assert place is not None
    assert (place / "config.yaml").exists()
    assert (place / "model" / "config.json").exists()


def test_nothing_to_set_aside(tmp_path: Path) -> None:
    assert find.set_aside(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


class Wide(nn.Module):
    """A MiB of weights: two checkpoints and the model take 7 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**18))


def test_preflight_refuses_a_small_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        with pytest.raises(CheckpointError) as caught:
            save.preflight(disk, Wide())
        message = str(caught.value)
        assert message.startswith("output_dir: ")
        assert "7 MiB" in message
        assert "6 MiB" in message
        assert str(disk) in message
        save.preflight(disk, Net())


def test_preflight_counts_what_the_run_itself_will_replace(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        save.preflight(disk, Wide())
        (disk / "checkpoints" / "step-00000004").mkdir(parents=True)
        (disk / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"\0" * 3 * 2**20)
        save.preflight(disk, Wide())


def test_preflight_does_not_count_on_what_stays(tmp_path: Path) -> None:
    """What was set aside is never removed, so its room is no room."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        (disk / "previous-1").mkdir()
        (disk / "previous-1" / "model.safetensors").write_bytes(b"\0" * 3 * 2**20)
        with pytest.raises(CheckpointError, match="5 MiB free"):
            save.preflight(disk, Wide())
