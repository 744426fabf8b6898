"""What a person sees of a job: the console, its stages, and the messages of libraries."""
