"""What noisy steps cost together, and the noise that a budget affords."""
