"""Uploading a model to the Hugging Face hub: only when asked, and nothing that may not be seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlm_dist.config import Config
from mlm_dist.errors import ConfigError, reason


def check(config: Config) -> None:
    """Refuse an upload that cannot work for want of a login, before any work is done.

    Raises:
        ConfigError: Nobody is logged in.
    """
    from huggingface_hub import get_token

    if config.export.push_to_hub is not None and get_token() is None:
        raise ConfigError(
            "export.push_to_hub: nobody is logged in; run `hf auth login` or set HF_TOKEN, or leave the key out"
        )


def push(folder: Path, repository: str, say: Callable[[str], None]) -> None:
    """Upload an exported model; a repository that is not there yet is made, and is private.

    Args:
        folder: The model.
        repository: Its name on the hub.
        say: Takes lines for the person at the screen.

    Raises:
        ConfigError: The hub cannot be reached, or does not take it. No message holds the token.
    """
    from huggingface_hub import HfApi, get_token

    api = HfApi()
    try:
        place = api.create_repo(repository, private=True, exist_ok=True)
        if not api.model_info(place.repo_id).private:
            say(f"WARNING: {place.repo_id} is there already, and is public")
        api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="A model trained with mlm_dist")
    except Exception as error:  # the library raises a dozen kinds for: no network, no permission, no room
        said = reason(error).replace(get_token() or "\0", "***")
        raise ConfigError(
            f"export.push_to_hub: cannot upload to {repository} ({said}); the model is in {folder}: try again with "
            "python mlm_dist/export.py and the same output_dir"
        ) from None
    say(f"uploaded to {place}")
