"""Formats that pandoc reads, as plain text."""
