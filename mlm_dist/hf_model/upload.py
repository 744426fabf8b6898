"""Upload of an exported model to the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from mlm_dist.errors import ConfigError, reason

logger = logging.getLogger(__name__)


def check(push_to_hub: str | None) -> None:
    """Refuse an upload without a login, before any work is done.

    Args:
        push_to_hub: The repository to upload to; None uploads nothing.

    Raises:
        ConfigError: There is no login.
    """
    from huggingface_hub import get_token

    if push_to_hub is not None and get_token() is None:
        raise ConfigError(
            "export.push_to_hub: not logged in to the Hugging Face Hub; run `hf auth login`, set HF_TOKEN, or set the "
            "key to null"
        )


def push(folder: Path, repository: str) -> None:
    """Upload an exported model; a new repository is private.

    Args:
        folder: The model.
        repository: Name of the repository.

    Raises:
        ConfigError: The Hub cannot be reached, or refuses the upload. The message does not contain the token.
    """
    from huggingface_hub import HfApi, get_token

    api = HfApi()
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        if not api.model_info(url.repo_id).private:
            logger.warning("the repository %s already exists and is public", url.repo_id)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Model trained with mlm_dist")
    except Exception as error:  # the library raises many kinds: no network, no permission, no space
        cause = reason(error).replace(get_token() or "\0", "***")
        raise ConfigError(
            f"export.push_to_hub: cannot upload to {repository} ({cause}); the model is in {folder}: to try again, run "
            "python mlm_dist/export.py with the same output_dir"
        ) from None
    logger.info("uploaded to %s", url)
