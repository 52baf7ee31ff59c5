import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-tests")
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
INSTALLED_APPS = ["shop", "memphis_sync.contrib.django", "memphis_sync.contrib.django.outbox"]
MEMPHIS = {
    "default": {
        "URL": os.environ.get("MEMPHIS_URL", ""),
        "PASSWORD": os.environ.get("BROKER_PASSWORD"),  # optional, wins over the URL's
        "OPTIONS": {"timeout_ms": 2000},  # any keyword of connect()
        "STATIONS": {"orders": {"partitions_number": 3}},  # any keyword of station()
    }
}
