"""Routes of the jobs' page."""

from django.urls import path

from jobs import views

app_name = "jobs"
JOB = "dashboard/jobs/queue/<slug:job_id>"
urlpatterns = [
    path("dashboard/jobs", views.jobs, name="jobs"),
    path("dashboard/jobs/retry", views.retry_failed, name="retry-failed"),
    path("dashboard/jobs/schedules/<int:schedule_id>/run", views.schedule_run, name="schedule-run"),
    path(f"{JOB}/retry", views.retry, name="job-retry"),
    path(f"{JOB}/run", views.hurry, name="job-run"),
    path("dashboard/jobs/<slug:source>/<slug:row_id>/cancel", views.cancel, name="job-cancel"),
]
