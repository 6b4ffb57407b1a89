from datetime import date

import django_rq
from django.db import transaction
from django.http import JsonResponse

from polls import tasks


@transaction.atomic
def vote(request):
    """Enqueue in each of the ways of django-rq's README, in a transaction."""
    django_rq.enqueue(tasks.long_running_func, date(2030, 1, 1))
    queue = django_rq.get_queue("default", commit_mode="auto", is_async=True, default_timeout=360)
    found = [queue.enqueue(tasks.long_running_func, day=date(2031, 1, 1)).id]
    tasks.long_running_func.delay(date(2032, 1, 1))
    tasks.urgent.delay("a", "b")
    tasks.fail.delay()
    high = django_rq.get_queue("high", connection=django_rq.get_connection("high"))
    high.enqueue_call("polls.tasks.urgent", args=("c",), timeout=5)
    return JsonResponse(
        {"jobs": found, "waiting": sum(len(django_rq.get_queue(q)) for q in ("default", "high", "low"))}
    )
