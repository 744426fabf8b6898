"""The architecture: who may import whom, and no file that hides a module of the same name."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, environment

PACKAGE = ROOT / "mlm_dist"
# Who may import whom, from the top: a layer imports from its own row and from those below.
LAYERS = (
    {
        "program",
        "cli",
        "commands",
        "launcher",
        "train",
        "embed",
        "prepare",
        "validate",
        "export",
        "report",
        "plan",
    },
    {"search", "runtime", "usage", "plan_table", "plan_phases", "plan_advice", "lengths"},
    {"trained_model", "corpora", "resolve", "redaction", "training", "hf_model", "pages"},
    {"evaluation", "run_dir"},
    {"objectives", "checkpoint"},
    {"engine"},
    {"optim"},
    {"model", "batches", "corpus"},
    {"spec", "pretrained", "stored_folders"},
    {"terminal"},
    {
        "config",
        "credentials",
        "errors",
        "system_errors",
        "files",
        "faults",
        "hashing",
        "registry",
        "ranks",
        "names",
        "environment",
        "hub",
        "retries",
        "object_store",
        "stored_object",
        "transfers",
        "interruption",
        "stopwatch",
    },
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Packages of one layer that must not import each other.
APART = {"model", "batches", "corpus"}
USES_FSSPEC = {"object_store"}
USES_ACCELERATE = {"engine", "launcher"}


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


def part_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "mlm_dist" and len(parts) > 1 and not parts[1].startswith("__") else ""


def test_every_file_has_a_layer() -> None:
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.stem in {*LEVEL, "__init__"}, path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if mine == "__init__":
        return
    theirs = {part_of(name) for name in imports(path)} & set(LEVEL)
    assert not {part for part in theirs if LEVEL[part] < LEVEL[mine]}
    if mine in APART:
        assert not theirs & (APART - {mine})
    roots = {name.split(".")[0] for name in imports(path)}
    assert "deepspeed" not in roots or path == PACKAGE / "engine" / "deepspeed.py"
    assert "fsspec" not in roots or mine in USES_FSSPEC
    assert "accelerate" not in roots or mine in USES_ACCELERATE


def test_no_file_hides_a_module_of_the_same_name() -> None:
    """`accelerate launch mlm_dist/train.py` puts mlm_dist/ itself first on the path."""
    owners = importlib.metadata.packages_distributions()
    installed = {name.split(".")[0] for name, distributions in owners.items() if set(distributions) != {"mlm_dist"}}
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix in {"", ".py"} and not path.name.startswith("__")}
    assert not ours & (sys.stdlib_module_names | installed)


def test_config_and_errors_need_nothing_heavy() -> None:
    program = (
        "import sys, mlm_dist, mlm_dist.config, mlm_dist.errors, mlm_dist.runtime, mlm_dist.cli\n"
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
