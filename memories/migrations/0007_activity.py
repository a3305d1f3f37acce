from django.db import migrations, models


class Migration(migrations.Migration):
    # Seconds with a million entries; all of it or nothing.

    dependencies = [
        ("memories", "0006_operations"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["project", "event", "at"], name="revision_event"),
        ),
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["project", "account", "at"], name="revision_account"),
        ),
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["project", "key_prefix", "at"], name="revision_key"),
        ),
        migrations.AddIndex(
            model_name="revision",
            index=models.Index(fields=["project", "client", "at"], name="revision_client"),
        ),
    ]
