"""The progress of set-up."""

from django.db import models


class Progress(models.Model):
    """One row while set-up is open: which steps are done, and their results.

    accounts.InstanceState keeps the first step and the end of set-up.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    provider_chosen_at = models.DateTimeField(null=True)
    key = models.ForeignKey("apikeys.ApiKey", models.SET_NULL, null=True, related_name="+")
    # A preset's name, and what was written beside it.
    preset = models.CharField(max_length=30, blank=True)
    use_case = models.TextField(blank=True)
    use_case_chosen_at = models.DateTimeField(null=True)
    # Something that a user would say, for the test.
    test_message = models.TextField(blank=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="one_setup_progress"),)

    def __str__(self) -> str:
        return "set-up"
