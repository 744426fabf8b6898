"""reStructuredText to plain text."""
