"""The exported Hugging Face model: its card, the reload check and the upload."""
