"""Readers: files become documents."""
