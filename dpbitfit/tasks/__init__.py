"""What a model is trained for: its records, its losses, its metrics."""
