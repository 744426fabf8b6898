"""From rows to batches: order, masks and tensors, each computed from (seed, step) and never carried along."""
