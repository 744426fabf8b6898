"""Tokenizers: loading, training, domain tokens and fast encoding."""
