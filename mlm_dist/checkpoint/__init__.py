"""Checkpoints: the state of a run, its format on disk, saving and finding."""
