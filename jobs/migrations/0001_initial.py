"""The queue, its schedules and the outbox."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0002_work_between_processes'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Lane',
            fields=[
                ('key', models.CharField(max_length=200, primary_key=True, serialize=False)),
            ],
        ),
        migrations.CreateModel(
            name='Parked',
            fields=[
                ('kind', models.CharField(max_length=60, primary_key=True, serialize=False)),
                ('until', models.DateTimeField()),
                ('times', models.PositiveSmallIntegerField(default=1)),
                ('reason', models.TextField(blank=True)),
            ],
        ),
        migrations.CreateModel(
            name='Schedule',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=60, unique=True)),
                ('expr', models.CharField(max_length=60)),
                ('tz', models.CharField(default='UTC', max_length=60)),
                ('next_run_at', models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='Event',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=60)),
                ('memory_id', models.UUIDField(null=True)),
                ('revision_id', models.BigIntegerField(null=True)),
                ('actor', models.JSONField(default=dict)),
                ('payload', models.JSONField(default=dict)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('project', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.project')),
            ],
        ),
        migrations.CreateModel(
            name='Job',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=60)),
                ('payload', models.JSONField(default=dict)),
                ('actor', models.JSONField(default=dict)),
                ('dedup_key', models.CharField(blank=True, max_length=200)),
                ('lane', models.CharField(blank=True, max_length=200)),
                ('blocked', models.BooleanField(default=False)),
                ('priority', models.SmallIntegerField(default=0)),
                ('state', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='queued', max_length=10)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('failures', models.PositiveSmallIntegerField(default=0)),
                ('losses', models.PositiveSmallIntegerField(default=0)),
                ('run_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('leased_until', models.DateTimeField(null=True)),
                ('holder', models.CharField(blank=True, max_length=120)),
                ('cancel_wanted', models.BooleanField(default=False)),
                ('reason', models.TextField(blank=True)),
                ('code', models.CharField(blank=True, max_length=60)),
                ('result', models.TextField(blank=True)),
                ('done', models.PositiveBigIntegerField(default=0)),
                ('total', models.PositiveBigIntegerField(null=True)),
                ('kept', models.JSONField(default=dict)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('started_at', models.DateTimeField(null=True)),
                ('finished_at', models.DateTimeField(null=True)),
                ('account', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('event', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='jobs', to='jobs.event')),
                ('project', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.project')),
                ('schedule', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='jobs', to='jobs.schedule')),
            ],
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['project', 'id'], name='event_order'),
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['created_at'], name='event_age'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('blocked', False), ('state', 'queued')), fields=['run_at'], name='job_due'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('blocked', False), ('state', 'queued')), fields=['project', 'priority', 'run_at', 'id'], name='job_turn'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state', 'running')), fields=['state', 'leased_until'], name='job_running'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ('queued', 'running')), models.Q(('lane', ''), _negated=True)), fields=['lane', 'id'], name='job_lane'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['project', 'state', 'finished_at', 'id'], name='job_listed'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('schedule__isnull', False)), fields=['schedule', 'id'], name='job_schedule'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('event__isnull', False)), fields=['event'], name='job_event'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ('queued', 'running')), models.Q(('dedup_key', ''), _negated=True)), fields=('dedup_key',), name='one_open_job_per_key'),
        ),
    ]
