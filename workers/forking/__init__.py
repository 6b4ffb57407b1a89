"""The fork server, which imports and checks a worker's modules and then forks its children."""
