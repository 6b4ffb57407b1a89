from django.db import models


class Order(models.Model):
    """What the project sells."""

    what = models.CharField(max_length=50)
