"""Ready-made request handlers: files and redirects."""
