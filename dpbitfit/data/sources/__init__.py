"""Where records come from: one module a format, each reading only the columns that are wanted."""
