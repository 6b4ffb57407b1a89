"""The consumers: a supervisor, its fork server, children and their slots. Only ``jobq worker`` imports this package."""

import jobqueue  # noqa: F401  # before redis, see ``_keep_the_gil_off`` there
