"""What to do about an add that failed, by the code of its failure."""

from typing import Final

from django import template

register = template.Library()

_ADVICE: Final = {
    "provider_auth_failed": "Give the provider a key that it accepts, and that may use the model.",
    "provider_rate_limited": "The quota is used up, or adds come too fast: wait, or raise it.",
    "provider_timeout": "A local model may have been loading. Where it always takes that long, "
    "raise PROVIDER_TIMEOUT.",
    "provider_unavailable": "See that the provider runs, and that this machine reaches it.",
    "provider_bad_request": "The model's name or an option does not fit: check the configuration.",
    "provider_not_configured": "Configure a language model, or add with infer=false.",
    "provider_bad_reply": "The model answers with something else than was asked: try another one.",
    "datastore_unavailable": "See that the database answers.",
}
_OTHERWISE: Final = "The server's log says more, at the time of the add."


@register.filter
def advice(code: str) -> str:
    """One sentence for the operator."""
    return _ADVICE.get(code, _OTHERWISE)
