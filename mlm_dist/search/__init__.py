"""Search in the documents of a run with its model: passages, their vectors on the disk, and a local page."""
