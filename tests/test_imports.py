"""The house's walls: who may import whom, and no file that hides a module of the same name."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, environment

PACKAGE = ROOT / "mlm_dist"
JOBS = {
    "cli",
    "plan",
    "train",
    "prepare",
    "validate",
    "export",
    "redaction",
    "report",
    "runtime",
    "second_corpus",
    "trained_model",
}
ROOMS = {"corpus", "batches", "model", "optim", "engine", "checkpoint", "training", "evaluation", "hf_model", "pages"}
LEAVES = {"config", "errors", "files", "faults", "hashing", "hub", "registry", "spec"}


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "mlm_dist" and len(parts) > 1 and not parts[1].startswith("__") else ""


def test_every_file_has_a_room() -> None:
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.stem in JOBS | ROOMS | LEAVES | {"__init__"}, path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    theirs = {room_of(name) for name in imports(path)} - {""}
    if mine == "config":
        assert theirs <= {"errors"}
    elif mine in LEAVES:
        assert theirs <= LEAVES
    elif mine == "training":
        assert theirs <= LEAVES | {"batching", "modeling", "training"}
    elif mine in ROOMS:
        assert theirs <= LEAVES | {mine}
    roots = {name.split(".")[0] for name in imports(path)}
    assert "deepspeed" not in roots or path == PACKAGE / "training" / "distributed.py"
    assert "accelerate" not in roots or mine in JOBS | {"training"}


def test_no_file_hides_a_module_of_the_same_name() -> None:
    """`accelerate launch mlm_dist/train.py` puts mlm_dist/ itself first on the path."""
    owners = importlib.metadata.packages_distributions()
    installed = {name.split(".")[0] for name, distributions in owners.items() if set(distributions) != {"mlm_dist"}}
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix in {"", ".py"} and not path.name.startswith("__")}
    assert not ours & (sys.stdlib_module_names | installed)


def test_config_and_errors_need_nothing_heavy() -> None:
    program = (
        "import sys, mlm_dist.config, mlm_dist.errors, mlm_dist.job\n"
        "mlm_dist.config.parse([])\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'accelerate', 'deepspeed'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.strip() == "[]"


def test_deepspeed_is_not_loaded_by_importing_a_job() -> None:
    program = "import sys, mlm_dist.train\nprint('deepspeed' in sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.strip() == "False"
