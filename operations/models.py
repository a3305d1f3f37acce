"""The tables of the request log."""

from django.db import models

from accounts.actor import ActedModel


class RequestLog(ActedModel):
    """One request to the API, without its body or query: caller, route, status and duration."""

    project = models.ForeignKey("accounts.Project", models.CASCADE, null=True, related_name="+")
    method = models.CharField(max_length=10)
    path = models.CharField(max_length=500)
    status_code = models.PositiveSmallIntegerField()
    latency_ms = models.FloatField()
    auth_type = models.CharField(max_length=20)
    # `auth_type` is the kind of credential, even if it was not valid.
    via = key_id = None  # type: ignore[assignment]  # this table has no such columns
    created_at = models.DateTimeField()

    class Meta:
        indexes = (
            models.Index(fields=["project", "created_at"], name="request_log_newest"),
            models.Index(fields=["created_at"], name="request_log_oldest"),
            # One key among many, its requests and their figures.
            models.Index(fields=["project", "key_prefix", "created_at"], name="request_log_key"),
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status_code}"


class RefusedRequests(models.Model):
    """The number of refused requests without a valid credential, by hour and address."""

    hour = models.DateTimeField()
    # "" for all addresses beyond those that are counted separately.
    address = models.CharField(max_length=45, blank=True)
    count = models.PositiveBigIntegerField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["hour", "address"], name="one_count_an_hour_and_address"
            ),
        )

    def __str__(self) -> str:
        return f"{self.count} from {self.address or 'elsewhere'}"
