"""Names of models and tokenizers: folders on this disk or repositories on the Hugging Face hub."""

from __future__ import annotations

import os

from mlm_dist.errors import ModelError, reason

HUB_SECONDS = 5.0


def require(name: str, key: str) -> str:
    """The folder or hub name to load from, known to exist.

    The library would retry for most of a minute where there is no network; here the user hears of it in seconds.

    Args:
        name: What the config says.
        key: The config key that says it.

    Raises:
        ModelError: It is no folder, and the hub has no such model or cannot be reached and it was not loaded before.
    """
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{key}: folder {name} does not exist")
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=HUB_SECONDS)
    except HFValidationError:
        raise ModelError(f"{key}: {name} is neither a folder nor a possible name of a model") from None
    except Exception as error:  # the library raises a dozen kinds for: no such name, no network, no permission
        raise ModelError(f"{key}: {name} is no folder, and the hub does not give it ({reason(error)})") from None
    return name
