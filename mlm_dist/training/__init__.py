"""The training loop's parts: processes and sharding, the optimizer step, validation, metrics and progress."""
