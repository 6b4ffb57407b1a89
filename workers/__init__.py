"""Run jobs: a supervisor, its fork server, children and their slots."""

import jobqueue  # noqa: F401  # before redis, see ``_keep_the_gil_off`` there
