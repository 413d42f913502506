"""The process that owns a site's records."""
