"""For WSGI servers. With SHOP_PRELOADED the client is used before the server forks."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from memphis_sync.contrib.django import memphis

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_shop.settings")
application = get_wsgi_application()

if os.environ.get("SHOP_PRELOADED"):
    memphis.produce(os.environ["SHOP_STATION"], "web", "master", nonblocking=True)
