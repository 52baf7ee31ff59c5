"""The project's settings; a test says in the environment where its broker and its databases are."""

from __future__ import annotations

import json
import os

SECRET_KEY = "-"
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "django_shop.urls"
WSGI_APPLICATION = "django_shop.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["memphis_sync.contrib.django", "memphis_sync.contrib.django.outbox", "django_shop"]
DATABASES = {
    "default": json.loads(
        os.environ.get("SHOP_DATABASE") or '{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}'
    )
}
MEMPHIS = json.loads(os.environ.get("SHOP_MEMPHIS") or "{}") or {"default": {"URL": os.environ.get("MEMPHIS_URL", "")}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
