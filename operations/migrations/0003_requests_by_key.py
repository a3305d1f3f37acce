from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("operations", "0002_oldest_requests"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="requestlog",
            index=models.Index(fields=["project", "key_prefix", "created_at"], name="request_log_key"),
        ),
    ]
