"""The table of the outbox."""

from __future__ import annotations

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes it."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("alias", models.CharField(default="default", max_length=100)),
                ("station", models.CharField(max_length=128)),
                ("payload", models.BinaryField()),
                ("headers", models.JSONField(default=dict)),
                ("msg_id", models.CharField(max_length=255, unique=True)),
                ("partition_key", models.TextField(default=None, null=True)),
                ("partition_number", models.IntegerField(default=-1)),
                ("failed_at", models.DateTimeField(default=None, null=True)),
                ("error", models.TextField(default="")),
            ],
            options={"db_table": "memphis_outbox", "verbose_name": "message of the outbox"},
        ),
    )
