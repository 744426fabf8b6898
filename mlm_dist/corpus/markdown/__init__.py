"""Markdown to plain text."""
