"""The fork server, and what is imported and checked before a child is forked from it."""
