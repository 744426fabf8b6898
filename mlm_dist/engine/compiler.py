"""torch.compile: what it needs beside torch, and where it is the default."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Literal

from mlm_dist.engine.launch import Launch

logger = logging.getLogger(__name__)


def missing(kind: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """What a kind of device lacks to compile for it, with the remedy; None if it lacks nothing."""
    path = environ.get("PATH")
    compiler = environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if kind == "cpu" and shutil.which(compiler, path=path) is None:
        return f"a C++ compiler, and there is no {compiler}; install it or write none"
    if kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton on a GPU; run: pip install triton, or write none"
    # As triton's own search: its launchers are in C.
    if kind == "cuda" and not any(shutil.which(name, path=path) for name in (environ.get("CC", "cc"), "gcc", "clang")):
        return "a C compiler for triton, and there is no gcc; install it or write none"
    return None


def default(launch: Launch, environ: Mapping[str, str] = os.environ, *, fused: bool) -> Literal["none", "regional"]:
    """`model.compile` where it is not given: regional on CUDA, else none.

    Not at stage 3 of ZeRO, which fetches the weights of each module inside the compiled layers, and not without what
    the compiler needs.

    Args:
        launch: The launch.
        environ: Environment variables.
        fused: Whether the model's attention has fused kernels: architectures with attention of their own may break the
            graph of a layer, or compile each layer again.
    """
    is_safe = launch.device.kind == "cuda" and fused and not (launch.sharding == "zero" and launch.stage == 3)
    if not is_safe or missing("cuda", environ) is not None:
        return "none"
    logger.info("model.compile: regional, the default on a GPU; none starts sooner")
    return "regional"
