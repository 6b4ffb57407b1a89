"""`python -m jobqueue.cli`, for where the console script is not on PATH."""

from jobqueue.cli import main

main(prog_name="jobq")
