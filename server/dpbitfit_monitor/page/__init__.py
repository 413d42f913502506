"""The monitor's web page: rendered here, read-only, without a word to any other machine."""
