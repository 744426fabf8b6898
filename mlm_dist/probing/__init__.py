"""What a model is worth for search in the user's own documents, measured without labels."""
