"""Vectors and token states name their project; a job fills the rows that are there."""

import django.db.models.deletion
from django.db import migrations, models

# memories.backfill.columns.PROJECTS
JOB = "memories.fill-projects"


def fill_later(apps, schema_editor):
    """A million rows take minutes, and the server has to start."""
    alias = schema_editor.connection.alias
    models = [apps.get_model("memories", name) for name in ("MemoryVector", "MemoryTokens")]
    if any(model.objects.using(alias).exists() for model in models):
        apps.get_model("jobs", "Job").objects.using(alias).create(kind=JOB, dedup_key=JOB)


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_time_zone'),
        ('jobs', '0001_initial'),
        ('memories', '0011_token_states_of_text'),
    ]

    operations = [
        migrations.AddField(
            model_name='memorytokens',
            name='project',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.project'),
        ),
        migrations.AddField(
            model_name='memoryvector',
            name='project',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.project'),
        ),
        migrations.RunPython(fill_later, migrations.RunPython.noop),
    ]
