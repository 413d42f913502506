"""The monitor's web page: rendered on the server, read-only; it contacts no other machine."""
