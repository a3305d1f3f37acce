from django.db import migrations


class Migration(migrations.Migration):
    """Leases belong to the jobs now. The table stays as it is, with its name."""

    dependencies = [
        ('memories', '0013_retrievals'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name='Lease')]),
    ]
