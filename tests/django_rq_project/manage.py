"""A Django project for tests: django-admin's manage.py."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
