"""What a finished or running run has to tell: its record, what the model fills in before and after, and the page."""
