"""`mlm-dist env`: versions, hardware and settings on one screen, for bug reports.

It holds no passwords and tokens, and no path of a home folder. It imports no library, so that it also works where one
cannot be imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlm_dist import __version__
from mlm_dist.config import Config
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import ConfigError

PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "huggingface_hub", "safetensors"),
    *("numpy", "triton", "nanotoken"),
)
# Flags of a CPU that decide which kernels it has.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")
SECONDS = 10.0  # that nvidia-smi may take
_RELEVANT = re.compile(
    r"(MLM_DIST|ACCELERATE|FSDP|DEEPSPEED|DS|CUDA|NVIDIA|NCCL|GLOO|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|OMP|MKL|KMP|OPENBLAS"
    r"|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|DATASETS|WANDB|MLFLOW|TRACKIO|SLURM|PYTHON)_?\w*"
    r"|(LOCAL_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|XDG_CACHE_HOME|TMPDIR|LD_LIBRARY_PATH"
    r"|(https?|all|no)_proxy",
    re.IGNORECASE,
)
_SECRET = re.compile(r"TOKEN(?!IZERS)|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|USER", re.IGNORECASE)
_TOKEN = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|glpat-)[\w-]{8,}|\b[0-9a-f]{40}\b")


def main(words: Sequence[str]) -> None:
    """Print what a bug report needs.

    Raises:
        ConfigError: There are words.
    """
    if words in (["-h"], ["--help"]):
        sys.stdout.write(f"{(__doc__ or '').strip()}\n")
        return
    if words:
        raise ConfigError(f"mlm-dist env takes nothing, got {' '.join(words)}")
    rows = [*_versions(), *_machine(), *_gpus(), *_cache(), *_variables()]
    width = max(len(name) for name, _ in rows) + 2
    sys.stdout.write("".join(f"{name:<{width}}{without_home(value)}\n" for name, value in rows))


def _versions() -> Iterator[tuple[str, str]]:
    yield "mlm_dist", f"{__version__} ({Path(__file__).parent.parent})"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        yield name, version + (_build_of_torch() if name == "torch" else "")


def _build_of_torch() -> str:
    """What torch was built for, read from its files."""
    try:
        spec = importlib.util.find_spec("torch")
        text = (Path(str(spec and spec.origin)).parent / "version.py").read_text("utf-8")
    except (OSError, ImportError, ValueError):
        return ""
    for name, label in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        if match := re.search(rf"^{name}\b.*= '([^']+)'", text, re.MULTILINE):
            return f" (built for {label} {match[1]})"
    return " (built for CPUs)"


def _machine() -> Iterator[tuple[str, str]]:
    import psutil

    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = platform.mac_ver()[0]
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}" + (f", {system}" if system else "")
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)", info, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*: (.*)", info, re.MULTILINE)
    flags = [flag for flag in CPU_FLAGS if found and flag in found[1].split()]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cpu", f"{model[1] if model else platform.processor() or 'unknown'}, {usable} of {os.cpu_count()} cores"
    yield "cpu flags", ", ".join(flags) or "unknown"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"


def _gpus() -> Iterator[tuple[str, str]]:
    if shutil.which("nvidia-smi") is None:
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        yield "gpu", "Apple GPU (mps)" if apple else "none found (there is no nvidia-smi)"
        return
    query = "--query-gpu=name,memory.total,compute_cap,driver_version"
    lines = _output("nvidia-smi", query, "--format=csv,noheader").splitlines()
    cards = [[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 3]
    if not cards:
        yield "gpu", f"nvidia-smi fails: {' '.join(lines)[:200] or 'no answer'}"
        return
    for i, (name, memory, capability, _) in enumerate(cards):
        yield f"gpu {i}", f"{name}, {memory}, compute capability {capability}"
    cuda = re.search(r"CUDA Version: ([\d.]+)", _output("nvidia-smi"))
    yield "driver", cards[0][3] + (f", for CUDA up to {cuda[1]}" if cuda else "")


def _output(*command: str) -> str:
    """What a program prints; what it says if it fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _cache() -> Iterator[tuple[str, str]]:
    cache_dir = Path(Config().corpus.cache_dir).expanduser().absolute()
    for name, folder in (("cache", cache_dir), ("here", Path.cwd())):
        disk = next(one for one in (folder, *folder.parents) if one.exists())
        yield name, f"{folder}, {shutil.disk_usage(disk).free / 2**30:.1f} GiB free"


def _variables() -> Iterator[tuple[str, str]]:
    for name, value in sorted(os.environ.items()):
        if _RELEVANT.fullmatch(name):
            yield name, shown(name, value)


def shown(name: str, value: str) -> str:
    """The value of a variable without credentials."""
    if _SECRET.search(name):
        return "(set, not shown)" if value else "(empty)"
    return _TOKEN.sub("(token, not shown)", without_credentials(value)) or "(empty)"


def without_home(text: str) -> str:
    """A text with `~` for the home folder, which names the user."""
    home = os.path.expanduser("~")
    return text.replace(f"{home}/", "~/") if home not in ("/", "~") else text
