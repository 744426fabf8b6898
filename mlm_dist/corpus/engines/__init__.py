"""Engines of preparation: in which processes, and in which order, the pieces of a `Preparation` run."""
