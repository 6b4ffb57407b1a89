"""``manage.py jobq``: the command line of jobq for the queues of the settings, with Django set up."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobqueue.django.command_line import UNTIL_STOPPED, become, run
from jobqueue.errors import JobqError


class Command(BaseCommand):
    """Hands its words over to jobq as they are, so that all of jobq's flags work."""

    help = "Run a command of jobq: worker, submit, info, ... `manage.py jobq --help` lists them."
    requires_system_checks: list[str] = []  # noqa: RUF012  as Django declares it

    def run_from_argv(self, argv: list[str]) -> None:
        words = argv[2:]
        if not words:
            words = ["--help"]
        try:
            if words[0] in UNTIL_STOPPED:
                become(words)
            run(words, f"{os.path.basename(argv[0])} {argv[1]}")
        except JobqError as e:
            self.stderr.write(f"Error: {e}")
            raise SystemExit(2) from None

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs="...", help="the command and its arguments")

    def handle(self, *_args: Any, words: list[str], **_options: Any) -> None:
        """(for call_command) Run the command in this process. Raises CommandError with its exit code."""
        try:
            run(words, "manage.py jobq")
        except SystemExit as e:
            if e.code:
                raise CommandError(f"jobq {' '.join(words)} failed", returncode=int(e.code)) from None
