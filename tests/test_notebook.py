"""launch/colab.ipynb, executed like *Run all*, on a machine without a GPU and outside Colab."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
import sysconfig
import types
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launching
import nbformat
import pytest
import torch
from launching import ROOT

from mlm_dist.config import parse
from mlm_dist.faults import VARIABLE as FAULT

NOTEBOOK = ROOT / "launch" / "colab.ipynb"
STEPS = 12
FLAGS = shlex.join(launching.SHORT)


def cells() -> dict[str, str]:
    """{name: source} of the code cells, in order."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    return {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}


def python_of(name: str) -> str:
    """The source of a cell without its shell and magic lines."""
    return re.sub(r"^[!%].*$", "", cells()[name], flags=re.MULTILINE)


@dataclass(frozen=True)
class Machine:
    """A machine whose pip installs into a separate environment; libraries come from this environment."""

    folder: Path
    source: Path  # the package to install
    drive: Path  # stands for Google Drive

    @property
    def environment(self) -> Path:
        """The environment that pip installs into."""
        return self.folder / "environment"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.drive / "mlm-dist" / "runs" / "quickstart"

    def run_all(self, documents: Path, fault: str = "") -> tuple[launching.Ended, dict[str, Any]]:
        """Execute the notebook from its first cell; return the process and, on success, each cell's outputs."""
        session = self.folder / "session"
        session.mkdir(exist_ok=True)
        variables: dict[str, Any] = {FAULT: fault}
        (session / "colab.ipynb").write_text(NOTEBOOK.read_text("utf-8"), "utf-8")
        ended = launching.run(
            [
                str(self.environment / "bin" / "python"),
                *("-c", "from nbclient.cli import main; main()"),
                *("--timeout=240", "--output=ran", str(session / "colab.ipynb")),
            ],
            cwd=session,
            PATH=f"{self.environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH="",
            # No network, also not for the build of the package.
            PIP_NO_INDEX="1",
            PIP_NO_BUILD_ISOLATION="0",
            IPYTHONDIR=str(self.folder / "ipython"),
            JUPYTER_DATA_DIR=str(self.folder / "jupyter"),
            MLM_DIST_INSTALL=str(self.source),
            MLM_DIST_FOLDER=str(self.drive / "mlm-dist"),
            MLM_DIST_RUN="quickstart",
            MLM_DIST_SOURCE=str(documents),
            MLM_DIST_FLAGS=FLAGS,
            **variables,
        )
        ran = session / "ran.ipynb"
        outputs = (
            {cell.id: cell.get("outputs") for cell in nbformat.read(ran, as_version=4).cells} if ran.exists() else {}
        )
        ran.unlink(missing_ok=True)
        return ended, outputs


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which nothing has run yet."""
    folder = tmp_path_factory.mktemp("colab")
    new = Machine(folder, launching.copy_of_package(folder / "source"), folder / "drive" / "MyDrive")
    new.drive.mkdir(parents=True)
    venv.create(new.environment, symlinks=True)
    (site,) = new.environment.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n", "utf-8")
    return new


def text_of(outputs: Any) -> str:
    """The printed output of a cell."""
    return "".join(output.text for output in outputs if output.output_type == "stream")


def check(ended: launching.Ended, outputs: dict[str, Any], machine: Machine) -> None:
    """Check that all cells ran, that the run is complete, and that only the package was installed."""
    assert ended.returncode == 0, ended.output
    assert [line["step"] for line in launching.metrics(machine.run, "train")] == list(range(2, STEPS + 1, 2))
    assert "no GPU" in text_of(outputs["gpu"])
    start = launching.metrics(machine.run, "start")[-1]
    assert (start["world_size"], start["device"], start["precision"]) == (1, "cpu", "fp32")
    examples = json.loads((machine.run / "report.json").read_text("utf-8"))["examples"][:5]
    shown = text_of(outputs["try"])
    assert len(examples) == 5 and all(
        f"{one['sentence'][: one['start']]}[{one['sentence'][one['start'] : one['end']]}]" in shown for one in examples
    )
    assert len(re.findall(r"^ +\d+\.\d%  ", shown, flags=re.MULTILINE)) == 15
    assert text_of(outputs["watch"]) == f"tensorboard --logdir {machine.run}\n"
    said = text_of(outputs["train"])
    assert "\x1b" not in said and all(re.match(r"\d\d:\d\d:\d\d ", line) for line in said.splitlines()), said
    (report,) = outputs["report"]
    assert "<iframe srcdoc=" in report.data["text/html"]
    assert "Validation" in report.data["text/html"]
    assert (machine.folder / "session" / "torch.txt").read_text("utf-8") == f"torch=={torch.__version__}\n"
    (site,) = machine.environment.glob("lib/python*/site-packages")
    installed = {path.name.split("-")[0] for path in site.iterdir()}
    assert installed == {"libraries.pth", "mlm_dist"}, "libraries of the machine were replaced"


@pytest.mark.slow
def test_run_all_resumes_after_a_lost_session(machine: Machine, prose: Path, finished: Path) -> None:
    """The first session left the files of a run that was killed after half of its steps."""
    shutil.copytree(finished, machine.run)
    shutil.copytree(prose.parent / "prose-cache", machine.drive / "mlm-dist" / "corpus")
    shutil.rmtree(machine.run / "checkpoints" / "step-00000012")
    shutil.rmtree(machine.run / "model")
    (machine.run / "report.html").unlink()
    ended, outputs = machine.run_all(prose)
    check(ended, outputs, machine)
    assert [line["resumed_from"] for line in launching.metrics(machine.run, "start")] == [0, 6]


@pytest.mark.slow
def test_run_all_resumes_after_a_kill_and_does_not_train_a_finished_run_again(
    machine: Machine, prose: Path, tmp_path: Path
) -> None:
    """Killed after its first checkpoint; executed to the end; executed once more."""
    machine = dataclasses.replace(machine, drive=tmp_path)
    ended, _ = machine.run_all(prose, fault="after_rename@6")
    assert ended.returncode != 0
    assert "training did not finish; see above" in ended.output
    assert not (machine.run / "model").exists()

    check(*machine.run_all(prose), machine)
    assert [line["resumed_from"] for line in launching.metrics(machine.run, "start")] == [0, 6]

    before = launching.metrics(machine.run, "train")
    check(*machine.run_all(prose), machine)
    assert launching.metrics(machine.run, "train") == before


@pytest.mark.slow
def test_torch_is_not_replaced(tmp_path: Path, machine: Machine, prose: Path) -> None:
    """A package that requires another torch is not installed, and the later cells do not run."""
    source = launching.copy_of_package(tmp_path / "source")
    settings = (source / "setup.cfg").read_text("utf-8")
    (source / "setup.cfg").write_text(re.sub("torch>=.*", "torch>=99", settings), "utf-8")
    ended, _ = dataclasses.replace(machine, source=source, drive=tmp_path).run_all(prose)
    assert ended.returncode != 0
    assert "the installation failed; see above" in ended.output
    assert not (tmp_path / "mlm-dist").exists()


@pytest.mark.parametrize(("major", "topology"), [(7, "colab"), (8, "gpu")], ids=["T4", "L4"])
def test_precision_matches_the_gpu(major: int, topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 (compute capability 7.5) emulates bf16, which must not count; an L4 (8.9) computes in bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    names: dict[str, Any] = {}
    exec(python_of("gpu"), names)
    assert names["topology"] == topology
    assert names["says"] == f"a GPU: {'bf16' if topology == 'gpu' else 'fp16'}"


@pytest.mark.parametrize("allowed", [True, False, None], ids=["connected", "refused", "not on Colab"])
def test_the_run_is_stored_in_google_drive_if_it_is_connected(
    allowed: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    my_drive = tmp_path / "drive" / "MyDrive"

    def mount(folder: str) -> None:
        if not allowed:
            raise ValueError("mount failed")
        Path(folder, "MyDrive").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    if allowed is not None:
        colab = types.ModuleType("google.colab")
        vars(colab)["drive"] = types.SimpleNamespace(mount=mount)
        monkeypatch.setitem(sys.modules, colab.__name__, colab)
    names: dict[str, Any] = {"FOLDER": str(my_drive / "mlm-dist"), "RUN": "azure_docs"}
    exec(python_of("place").replace("/content/drive", str(my_drive.parent)), names)
    assert names["folder"] == (my_drive / "mlm-dist" if allowed else tmp_path / "mlm-dist")
    assert names["run"] == names["folder"] / "runs" / "azure_docs"


def test_colab_shows_tensorboard_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    magics: list[tuple[str, str]] = []
    shell = types.SimpleNamespace(run_line_magic=lambda name, line: magics.append((name, line)))
    exec(python_of("watch"), {"sys": sys, "run": tmp_path / "my run", "get_ipython": lambda: shell})
    assert magics == [("load_ext", "tensorboard"), ("tensorboard", f"--logdir '{tmp_path}/my run'")]


@pytest.mark.parametrize("name", ["mlm_dist-0.2.0-py3-none-any.whl", "other.txt"], ids=["wheel", "another file"])
def test_wheel_is_uploaded_once_and_saved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[str] = []

    def upload() -> dict[str, bytes]:
        uploads.append(name)
        return {name: b"content"}

    monkeypatch.chdir(tmp_path)
    colab = types.ModuleType("google.colab")
    vars(colab)["files"] = types.SimpleNamespace(upload=upload)
    monkeypatch.setitem(sys.modules, colab.__name__, colab)
    for _ in range(2):
        names: dict[str, Any] = {"INSTALL": "", "folder": tmp_path / "mlm-dist", "_exit_code": 0}
        names |= {"Path": Path, "torch": torch}
        if not name.startswith("mlm_dist-"):
            with pytest.raises(AssertionError, match="no wheel of mlm_dist was uploaded"):
                exec(python_of("install"), names)
            return
        exec(python_of("install"), names)
        assert names["INSTALL"] == str(tmp_path / "mlm-dist" / name)
    assert uploads == [name]


def test_outside_colab_the_package_must_be_named(tmp_path: Path) -> None:
    names: dict[str, Any] = {"INSTALL": "", "folder": tmp_path}
    with pytest.raises(AssertionError, match="outside Colab, set INSTALL"):
        exec(python_of("install"), names)


def test_the_default_is_the_run_of_the_original_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLM_DIST_")]:
        monkeypatch.delenv(name)
    names: dict[str, Any] = {}
    exec(python_of("settings"), names)
    config = parse([f"--config={ROOT}/configs/runs/{names['RUN']}.yaml"])
    assert config.corpus.source == "https://github.com/MicrosoftDocs/azure-docs"
    assert names["SOURCE"] == names["FLAGS"] == ""
    choices = re.search(r"RUN = .*@param (\[.*\])", cells()["settings"])
    assert choices is not None
    assert all((ROOT / "configs" / "runs" / f"{name}.yaml").exists() for name in json.loads(choices[1]))


def test_the_file_contains_no_outputs() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
