from django.db import migrations, models


class Migration(migrations.Migration):
    """Leases belong to the jobs now. The table stays as it is, with its name."""

    dependencies = [
        ('jobs', '0001_initial'),
        ('memories', '0014_leases_of_jobs'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name='Lease',
                    fields=[
                        ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                        ('holder', models.CharField(max_length=64)),
                        ('until', models.DateTimeField()),
                    ],
                    options={'db_table': 'memories_lease'},
                ),
            ],
        ),
    ]
