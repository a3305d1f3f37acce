"""Vectors of two models beside each other: while one embedder takes another's place."""

import django.db.models.deletion
from django.db import migrations, models

COPY = (
    "INSERT INTO memories_nextvector (memory_id, model_key, dims, data) "
    "SELECT memory_id, model_key, dims, data FROM memories_memoryvector"
)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("memories", "0001_initial"),
    ]

    operations = [
        # A primary key cannot be altered: a new table takes the old one's place.
        migrations.CreateModel(
            name="NextVector",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("memory", models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="vectors", to="memories.memory")),
                ("model_key", models.CharField(max_length=200)),
                ("dims", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
            ],
        ),
        migrations.RunSQL(COPY, migrations.RunSQL.noop),
        migrations.DeleteModel(name="MemoryVector"),
        migrations.RenameModel("NextVector", "MemoryVector"),
        migrations.AddConstraint(
            model_name="memoryvector",
            constraint=models.UniqueConstraint(fields=("memory", "model_key"), name="one_vector_per_model"),
        ),
    ]
