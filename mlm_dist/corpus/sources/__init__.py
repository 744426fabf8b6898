"""Sources: whatever `corpus.source` names becomes a folder of files."""
