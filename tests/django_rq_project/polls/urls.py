from django.urls import path

from polls.views import vote

urlpatterns = [path("vote/", vote)]
