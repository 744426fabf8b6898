"""Train BERT-like encoders with the masked-language-model objective on your own documents."""

__version__ = "0.1.0"
