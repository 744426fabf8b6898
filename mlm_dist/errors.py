"""Every error this package raises on purpose.

    MlmDistError
    ├── UserError          the input is wrong: one line that names the key or file and the remedy, exit code 2
    │   ├── ConfigError    a config key, its value, or two keys that contradict each other
    │   ├── CorpusError    the documents, or where they come from
    │   ├── ModelError     the model or the tokenizer, or the two together
    │   ├── CheckpointError  a checkpoint is damaged, of another run, or cannot be written
    │   └── TrainingError  training cannot go on: its numbers are not finite
    ├── Interrupted        a signal ended the run after it was saved, exit code 75
    └── PeerError          another process of this launch failed; that process tells the user why

Anything else that escapes a job is a fault of ours and keeps its traceback.
"""

from __future__ import annotations


class MlmDistError(Exception):
    """Base of all errors raised on purpose."""


class UserError(MlmDistError):
    """The user's input is wrong. The message is one line: what is wrong, then the remedy."""


class ConfigError(UserError):
    """A config key is unknown, has the wrong type or value, or contradicts another one."""


class CorpusError(UserError):
    """The documents cannot be read, or do not suffice for what was asked."""


class ModelError(UserError):
    """The model or tokenizer cannot be loaded, or they do not fit each other or the rows."""


class CheckpointError(UserError):
    """A checkpoint is damaged, belongs to another run, or cannot be written."""


class TrainingError(UserError):
    """Training cannot go on as it was set up."""


class Interrupted(MlmDistError):
    """The run was asked to stop, and has saved itself. The message says how to go on."""


class PeerError(MlmDistError):
    """Another process failed first; its message is the one to read."""


def reason(error: BaseException) -> str:
    """The first line of a library's message, for use inside one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
