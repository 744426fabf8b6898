"""What goes with an exported model: its card, the proof that it loads, and its way to the hub."""
