"""Recognizing errors that mean out of memory."""

from __future__ import annotations

from accelerate.utils.memory import should_reduce_batch_size

# Messages of libraries below torch that raise no out-of-memory error.
_MESSAGES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that the device, or the host, ran out of memory."""
    return bool(should_reduce_batch_size(error)) or any(message in str(error) for message in _MESSAGES)
