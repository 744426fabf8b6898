"""From documents to rows of tokens on disk. Needs no process group: ranks meet through files."""
