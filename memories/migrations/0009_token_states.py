"""Token states beside the vectors."""

import django.db.models.deletion
from django.db import migrations, models

# PostgreSQL would compress what is longer than 2 KB, or put it elsewhere, and a search reads hundreds
# of these: they stay in their rows as long as a page can hold them.
INLINE = "ALTER TABLE {} SET (toast_tuple_target = 8160)"
TABLES = ("memories_memorytokens", "memories_memoryvector")


def keep_inline(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for table in TABLES:
            schema_editor.execute(INLINE.format(table))


class Migration(migrations.Migration):

    dependencies = [
        ('memories', '0008_entities'),
    ]

    operations = [
        migrations.CreateModel(
            name='MemoryTokens',
            fields=[
                ('memory', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='token_states', serialize=False, to='memories.memory')),
                ('states_key', models.CharField(max_length=100)),
                ('data', models.BinaryField()),
            ],
        ),
        migrations.RunPython(keep_inline, migrations.RunPython.noop),
    ]
