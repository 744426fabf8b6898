"""The export trial: a model is exported before the first step, so that nothing fails after the last one.

A new process imports transformers while the run starts, and loads the written model while the run validates.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mlm_dist.errors import ModelError, UserError, reason
from mlm_dist.files import temporary_folder
from mlm_dist.hf_model.reload_check import ReloadCheck
from mlm_dist.hf_model.write import ModelFiles, write_files
from mlm_dist.model.plain_copy import plain_copy
from mlm_dist.spec import ExportSpec
from mlm_dist.system_errors import named
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)

_CHANGE = 1e-3  # about what the first steps of a run change


class ExportTrial:
    """An export of the untrained model that is written, loaded again and compared; rank 0 does the work.

    As a context it ends its process and removes its files.

    Args:
        export: The export; without `verify` nothing is tried, except the ONNX graph.
        is_main: Whether this is rank 0.
    """

    def __init__(self, export: ExportSpec, *, is_main: bool) -> None:
        self._export = export
        self._stack = contextlib.ExitStack()
        is_tried = is_main and (export.verify or export.format == "onnx")
        self._process = self._stack.enter_context(ReloadCheck()) if is_tried else None
        self._has_begun = False

    def begin(self, model: Any, files: Callable[[], ModelFiles], parent: Path) -> None:
        """Write the model and let the process load it, without waiting for it.

        Args:
            model: The untrained transformers model in fp32 on the CPU, which stays as it is.
            files: Makes what goes beside it.
            parent: The folder to write below, such as the run directory.

        Raises:
            ModelError: transformers cannot write the model.
            OSError: The disk is full.
        """
        if self._process is None:
            return
        folder = temporary_folder(parent / "model-trial")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            with named(parent, folder):
                copy, beside = _as_if_trained(plain_copy(model)), files()
                write_files(copy, beside, folder, self._export.dtype)
                self._process.begin(folder, copy.float(), beside.tokenizer, beside.graph(self._export))
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # transformers raises many kinds for a configuration that contradicts itself
            raise ModelError(
                f"model.name_or_path: the untrained {model.config.model_type} model cannot be exported "
                f"({reason(error)}); change model.overrides, or skip this check with --export.verify false"
            ) from error
        self._has_begun = True

    def end(self) -> None:
        """Wait for the process, and refuse a model that cannot be exported.

        Raises:
            ModelError: The export failed, or the loaded model is not the one that was written.
        """
        if self._process is None or not self._has_begun:
            return
        try:
            with stage("export check", leaves_after=None):
                self._process.result()
        except ModelError as error:
            raise ModelError(f"before the first step: {error}") from None
        finally:
            self._stack.close()
            self._process = None
        logger.info("the untrained model was exported, loaded in a new process and compared")

    def __enter__(self) -> ExportTrial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


@torch.no_grad()
def _as_if_trained(model: Any) -> Any:
    """Change all trained weights a little: transformers may load only new ones right, such as a row of zeros."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.mul_(1 + _CHANGE).add_(_CHANGE)
    return model
