"""Tokenizers: loading, training, domain tokens, and fast tokenization of many texts."""
