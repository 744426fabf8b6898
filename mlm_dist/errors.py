"""Every error this package raises on purpose.

    MlmDistError
    ├── UserError          the input is wrong: one line that names the key or file and the remedy, exit code 2
    │   ├── ConfigError    a config key, its value, or two keys that contradict each other
    │   ├── CorpusError    the documents or their source
    │   ├── ModelError     the model or the tokenizer
    │   ├── CheckpointError  a checkpoint is damaged, belongs to another run, or cannot be written
    │   ├── TrainingError  training cannot continue: its values are not finite
    │   └── ResourceError  the disk, the memory or another limit of this machine
    ├── Interrupted        a signal stopped the run after it was saved, exit code 75
    └── PeerError          another process of this launch failed; its message says why

Any other exception that leaves a job is a bug of this package and keeps its traceback.
"""

from __future__ import annotations


class MlmDistError(Exception):
    """Base of all errors raised on purpose."""


class UserError(MlmDistError):
    """The user's input is wrong. The message is one line: the problem, then the remedy.

    Args:
        message: The message; line breaks and control characters, such as those of file names, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(UserError):
    """A config key is unknown, has the wrong type or value, or contradicts another one."""


class CorpusError(UserError):
    """The documents cannot be read, or there are too few of them."""


class ModelError(UserError):
    """The model or tokenizer cannot be loaded, or they do not fit each other or the rows."""


class CheckpointError(UserError):
    """A checkpoint is damaged, belongs to another run, or cannot be written."""


class TrainingError(UserError):
    """Training cannot continue with these settings."""


class ResourceError(UserError):
    """A limit of this machine ends the job: its disk, its memory, its open files, or a permission."""


class Interrupted(MlmDistError):
    """A signal stopped the run after it saved a checkpoint. The message says how to resume."""


class PeerError(MlmDistError):
    """Another process failed first; its message explains why."""


def printable(text: str) -> str:
    """A text on one line: characters that are not printable are escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def reason(error: BaseException) -> str:
    """The first line of a library's error message, to quote in another message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
