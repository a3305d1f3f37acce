"""The settings of the proof about jobs: its own kinds, and one who listens to events."""

from mem0dash.settings import *  # noqa: F403

JOB_KINDS = ["prove.job_kinds.STEPS"]
EVENT_SUBSCRIBERS = ["prove.job_kinds.LISTENER"]
