"""Where the views are."""

from __future__ import annotations

from django.urls import path

from django_shop import views

urlpatterns = [
    path("produce/<int:first>/<int:count>", views.produce),
    path("order/<int:customer>", views.order),
    path("fails", views.fails),
]
