"""The encoder: built from a checkpoint or from scratch, with its head on the masked positions only."""
