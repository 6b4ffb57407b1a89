from django.core.management.base import BaseCommand

from jobqueue.django import get_worker


class Command(BaseCommand):
    """Run one of RQ's worker classes on the queue default."""

    def add_arguments(self, parser):
        parser.add_argument("kind")

    def handle(self, kind, **options):
        get_worker(worker_class=kind).work(logging_level="WARNING")
