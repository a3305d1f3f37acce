"""Work that outlives a request: the queue, its schedules, the outbox of events, and their page."""
