"""How far set-up has come."""

from django.db import models


class Progress(models.Model):
    """One row, while set-up goes on: which steps are done, and what they came to.

    The first step is accounts.InstanceState's business, and so is the end of it all.
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
