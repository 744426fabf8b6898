"""Names of models and tokenizers: folders on this disk or repositories on the Hugging Face Hub."""

from __future__ import annotations

import os

from mlm_dist import names
from mlm_dist.errors import ModelError, reason
from mlm_dist.retries import retry

HUB_SECONDS = 5.0


def require(name: str, key: str, revision: str | None = None) -> str:
    """Check that a folder or Hub repository exists, and return the path or name to load from.

    Without a network the library retries for most of a minute; this check fails within `HUB_SECONDS`. It is repeated
    if the Hub is busy (`retries`).

    Args:
        name: The value in the config.
        key: The config key, for messages.
        revision: Branch, tag or commit on the Hub; None for the default branch.

    Raises:
        ModelError: `name` is not a folder, and the Hub does not have it or cannot be reached and it is not in the
            Hub's cache.
    """
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return path
    near = names.nearest_path(name)
    hint = f"did you mean {near}?" if near else "check the name"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{key}: folder {name} does not exist; {hint}")
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            retry(lambda: HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS), f"{key}: {name}")
    except HFValidationError:
        raise ModelError(f"{key}: {name} is neither a folder nor a valid model name") from None
    except RevisionNotFoundError:
        raise ModelError(f"model.revision: {name} has no revision {revision} on the Hub; check the name") from None
    except Exception as error:  # the library raises many types for a missing name, no network or no permission
        what = name if revision is None else f"revision {revision} of {name}"
        raise ModelError(
            f"{key}: {name} is not a folder, and the Hub did not provide {what} ({reason(error)}); {hint}"
        ) from None
    return name
