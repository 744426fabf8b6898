"""The exported model in Hugging Face format: writing it, its model card, the reload check and the upload."""
