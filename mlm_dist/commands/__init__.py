"""Commands of `mlm-dist` that are no jobs: they have no config, and start no run."""
