"""Text classification with a pretrained transformer."""
