"""Tasks, templates and batches."""
