"""What a browser would send to the shop, for the commands of the pages."""

import os
from importlib import import_module

import django
from django.test import RequestFactory


def post(*, view="shop.views.order", **form):
    """Calls a view, and prints its answer."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()
    module, _, name = view.rpartition(".")
    print(getattr(import_module(module), name)(RequestFactory().post("/orders", form)).content.decode())
