"""Jobs of the project. The module needs Django to be set up, and leaves a connection open at its import."""

import os

from django.db import connection

from jobqueue.django import job
from shop.models import Order

Order.objects.first()


@job
def count():
    """Return how many orders there are, and which processes have counted them: the database's, and this one."""
    found = Order.objects.count()
    return [found, getattr(getattr(connection.connection, "info", None), "backend_pid", 0), os.getpid()]


def order(what):
    return Order.objects.create(what=what).pk


@job("mail", timeout=30)
def send(order):
    return f"sent {Order.objects.get(pk=order).what}"


async def acount():
    return await Order.objects.acount()


def leave_open():
    """End with a transaction open, as a job does that was interrupted at the wrong moment."""
    connection.ensure_connection()
    connection.in_atomic_block = True
