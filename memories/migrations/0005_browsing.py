from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from memories.storage import substring_index as fulltext

LIVE = models.Q(deleted_at__isnull=True)
FACETS = ["collection", "confidence", "review_status", "source", "agent_id", "app_id", "user_id", "run_id"]
EXPIRY = ["expires_at", "expiration_date"]


def install(apps: Any, schema_editor: Any) -> None:
    fulltext.install(schema_editor.connection)


def remove(apps: Any, schema_editor: Any) -> None:
    fulltext.remove(schema_editor.connection)


class Migration(migrations.Migration):
    # All or nothing: half a minute with a million memories, and after an interruption begun again.

    dependencies = [
        ("accounts", "0002_work_between_processes"),
        ("memories", "0004_failed_adds"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="SavedView",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80)),
                ("params", models.JSONField(default=dict)),
                ("shared", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("owner", models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to=settings.AUTH_USER_MODEL)),
                ("project", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="accounts.project")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("project", "owner", "name"), name="one_view_per_name"),
                    models.UniqueConstraint(condition=models.Q(("owner", None)), fields=("project", "name"), name="one_view_per_name_of_nobody"),
                ],
            },
        ),
        migrations.RemoveIndex(model_name="memory", name="memory_newest"),
        migrations.RemoveIndex(model_name="memory", name="memory_user"),
        migrations.AddIndex(
            model_name="memory",
            index=models.Index(fields=["project", "created_at", "id", *FACETS, *EXPIRY], condition=LIVE, name="memory_newest"),
        ),
        migrations.AddIndex(
            model_name="memory",
            index=models.Index(fields=["project", *FACETS, *EXPIRY, "created_at"], condition=LIVE, name="memory_facets"),
        ),
        migrations.AddIndex(
            model_name="memory",
            index=models.Index(
                fields=["project", "user_id", "created_at", "id", *(name for name in FACETS if name != "user_id"), *EXPIRY],
                condition=LIVE,
                name="memory_user",
            ),
        ),
        migrations.AddIndex(
            model_name="memory",
            index=models.Index(fields=["project", "updated_at", "id", *FACETS, *EXPIRY], condition=LIVE, name="memory_updated"),
        ),
        migrations.RunPython(install, remove),
    ]
