import os
from datetime import date

from django_rq import job


@job
def long_running_func(day):
    return day + (date(2030, 1, 2) - date(2030, 1, 1))


@job("high", timeout=3600)
def urgent(*names):
    return {*names}


@job("low")
def fail():
    raise LookupError(os.environ["SHOP_FILE"])
