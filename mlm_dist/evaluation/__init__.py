"""Evaluation: validation loss, frequency bands, pseudo-likelihood, fill-mask and retrieval."""
