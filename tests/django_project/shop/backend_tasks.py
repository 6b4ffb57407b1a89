"""Tasks of django.tasks, which Django has since 6.0."""

import os
import time

from django.tasks import task

from shop.models import Order


@task
def order(what, pieces=1):
    return [Order.objects.create(what=f"{pieces} {what}").pk, {"pieces": pieces}]


@task(priority=10, queue_name="mail", takes_context=True)
def context(context, text):
    return [text, context.attempt, context.task_result.id, context.task_result.status, context.task_result.backend]


@task
async def acount():
    return await Order.objects.acount()


@task
def fails():
    raise Order.DoesNotExist("no such\norder")


@task
def hold():
    """Keep the worker busy until the test has enqueued all others."""
    while not os.path.exists(f"{os.environ['RANKED']}.go"):
        time.sleep(0.01)


@task
def ranked(name):
    with open(os.environ["RANKED"], "a") as file:
        file.write(f"{name}\n")
