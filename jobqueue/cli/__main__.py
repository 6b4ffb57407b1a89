"""Run the command line as `python -m jobqueue.cli`, where the console script is not on PATH."""

from jobqueue.cli import main

main(prog_name="jobq")
