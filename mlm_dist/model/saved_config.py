"""The transformers configuration of a model that is named: of an architecture, a checkpoint, or a run's checkpoint."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from mlm_dist.errors import ModelError, reason
from mlm_dist.model import rotary
from mlm_dist.pretrained import Pretrained
from mlm_dist.retries import retry

_FIELD = "model.overrides."  # the prefix of a configuration's fields in the identity of a run


def read(pretrained: Pretrained) -> Any:
    """The transformers configuration of a checkpoint; code from its repository is never run.

    Raises:
        ModelError: It cannot be read, or it needs code of its own.
    """
    from transformers import AutoConfig

    if pretrained.is_run_checkpoint:
        return _of_a_run(Path(pretrained.path))
    name, folder = pretrained.name, pretrained.folder
    try:
        load = partial(AutoConfig.from_pretrained, pretrained.path, **pretrained.options)
        config = retry(load, f"{pretrained.key}: {name}")
    except Exception as error:  # the library raises many kinds: the name is unknown, no network, a broken file
        if folder is not None:
            _explain(name, folder)
        if "trust_remote_code" in str(error):
            raise _needs_code(name, "") from None
        raise ModelError(
            f"model.name_or_path: {name} is neither an architecture nor a checkpoint that can be loaded "
            f"({reason(error)})"
        ) from None
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        kind = quantization.get("quant_method", "") if isinstance(quantization, dict) else ""
        raise ModelError(
            f"model.name_or_path: the weights of {name} are quantized{f' ({kind})' if kind else ''}, so they cannot be "
            "trained; choose the model that they were made from"
        )
    return config


def _explain(name: str, folder: Path) -> None:
    """Raise the reason why a folder has no configuration, if it can be told from its files."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model.name_or_path: {name} holds an adapter (adapter_config.json), not a model; merge it into its base "
            "model with peft's merge_and_unload() and save that"
        )
    if not path.is_file():
        files = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise ModelError(
            f"model.name_or_path: {name} has no config.json (it holds {files}); name the folder of a transformers "
            "model, or put the config.json and the tokenizer of its architecture into it"
        )
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.name_or_path: {path} is not JSON ({reason(error)}); copy it again") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise ModelError(f"model.name_or_path: {path} has no model_type, so it is not a transformers configuration")
    if "auto_map" in values:
        raise _needs_code(name, values["model_type"])


def _needs_code(name: str, model_type: str) -> ModelError:
    from transformers import CONFIG_MAPPING

    plain = str(model_type).lower().replace("_", "").replace("-", "")
    like = [one for one in CONFIG_MAPPING if one.lower().replace("_", "").replace("-", "") == plain]
    kind = f"'{model_type}' " if model_type else ""
    convert = f"; its weights may fit the built-in {like[0]}, if they are converted" if like else ""
    return ModelError(
        f"model.name_or_path: {name} needs code from its repository (auto_map in config.json), which is never run; "
        f"{kind}is no architecture of transformers itself: choose a built-in one such as modernbert, eurobert, "
        f"nomic_bert or gte, or convert the checkpoint to one{convert}"
    )


def _of_a_run(checkpoint: Path) -> Any:
    """The configuration in the identity of a run's checkpoint."""
    from transformers import CONFIG_MAPPING

    try:
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        identity = state["identity"].items()
        fields = {key.removeprefix(_FIELD): value for key, value in identity if key.startswith(_FIELD)}
        config = CONFIG_MAPPING[fields.pop("model_type")].from_dict(fields)
        rotary.set_theta_of_config(config, rotary.theta_of_state(state))
        return config
    except Exception as error:  # a damaged file, or an architecture of another version of transformers
        raise ModelError(
            f"model.name_or_path: {checkpoint / 'state.json'} does not describe a model ({reason(error)}); name "
            "another checkpoint, or the exported model"
        ) from None
