"""Batches: sample order, masks and micro-batches, each a function of (seed, step)."""
