"""The forms of the wizard."""

from typing import Any, Final

from django import forms

from accounts.services import EMAIL_LENGTH, NAME_LENGTH
from core.errors import InvalidInputError
from core.outbound import check_provider_url
from core.pages.forms import PageForm
from memories.providers.drafts import (
    COMPATIBLE,
    SAME,
    ChosenProvider,
    ProviderOffer,
    WantedProvider,
)
from memories.providers.service import INSTRUCTIONS_LENGTH, USE_CASE_LENGTH
from setup_wizard.presets import PRESETS

_EMAIL_ERRORS: Final = {
    "required": "Enter your e-mail address.",
    "invalid": "Enter a whole e-mail address, such as you@example.org.",
}


def _email() -> forms.EmailField:
    return forms.EmailField(
        label="E-mail address",
        max_length=EMAIL_LENGTH,
        help_text="You sign in with it. Nothing is ever sent to it.",
        error_messages=_EMAIL_ERRORS,
        widget=forms.EmailInput(attrs={"autocomplete": "username", "spellcheck": "false"}),
    )


def _name() -> forms.CharField:
    return forms.CharField(
        label="Your name",
        max_length=NAME_LENGTH,
        error_messages={"required": "Enter your name, as others will see it here."},
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )


class AdministratorForm(PageForm):
    """The first account, and the token that allows making it."""

    setup_token = forms.CharField(
        label="Setup token",
        max_length=1000,
        help_text="The server shows it in the terminal when it starts, and keeps it in the file "
        "setup_token of its data directory, unless SETUP_TOKEN is set.",
        error_messages={"required": "Enter the setup token."},
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}
        ),
    )
    name = _name()
    email = _email()
    password = forms.CharField(
        max_length=1000,
        strip=False,
        help_text="At least 8 characters. A few words that only you would put together are best.",
        error_messages={"required": "Choose a password."},
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class OwnAccountForm(PageForm):
    """What can be corrected about the new account."""

    name = _name()
    email = _email()


def _line(label: str, required: str, help_text: str = "", **attrs: str) -> forms.CharField:
    """A field for one line that is not prose."""
    quiet = {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}
    return forms.CharField(
        label=label,
        max_length=2000,
        required=bool(required),
        help_text=help_text,
        error_messages={"required": required},
        widget=forms.TextInput(attrs={**quiet, **attrs}),
    )


class ProviderFieldsForm(PageForm):
    """What one provider needs, for one kind. Only the chosen provider's are ever bound."""

    # All providers' fields are in the page at once: the browser must not ask for those of others.
    use_required_attribute = False

    def __init__(
        self, offer: ProviderOffer, kind: str, stored: ChosenProvider | None, data: Any = None
    ) -> None:
        super().__init__(data, prefix=f"{kind}-{offer.id}")
        self.offer = offer
        azure = offer.provider == "azure_openai"
        self._add_connection(offer, stored)
        self.fields["model"] = _line(
            "Deployment" if azure else "Model",
            "Name your deployment." if azure else "Name a model.",
            _model_help(offer, kind),
            list=f"{self.prefix}-models",
        )
        self.fields["model"].initial = (stored.model if stored else "") or (
            "" if azure else offer.model
        )

    def _add_connection(self, offer: ProviderOffer, stored: ChosenProvider | None) -> None:
        if offer.has_address:
            self.fields["address"] = _line(
                "Endpoint" if offer.provider == "azure_openai" else "Server address",
                "Enter the address." if offer.needs_address else "",
                _ADDRESS_HELP.get(offer.id, "As seen from this server."),
                inputmode="url",
                placeholder=_ADDRESS_EXAMPLES.get(offer.id, offer.address),
            )
            self.fields["address"].initial = (stored.address if stored else "") or offer.address
        if offer.provider == "azure_openai":
            self.fields["api_version"] = _line("API version", "Enter the version of Azure's API.")
            self.fields["api_version"].initial = (
                stored.api_version if stored else ""
            ) or "2024-10-21"
        self.fields["api_key"] = forms.CharField(
            label="API key",
            max_length=2000,
            required=offer.needs_key and not (stored and stored.has_key),
            help_text=_key_help(stored),
            error_messages={"required": f"{offer.title} needs an API key."},
            # Never written into the page, whatever was sent.
            widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        )
        if self.data.get(f"{self.prefix}-api_key"):
            # Not taken yet, or it would not be among the data: the script leaves it in its field.
            self.fields["api_key"].widget.attrs["data-keep"] = ""

    def clean_address(self) -> str:
        address = str(self.cleaned_data["address"])
        if address:
            try:
                check_provider_url(address)
            except InvalidInputError as error:
                raise forms.ValidationError(error.message) from error
        return address

    def clean_api_key(self) -> str:
        key = str(self.cleaned_data["api_key"])
        if not key.isascii() or not key.isprintable() or " " in key:
            raise forms.ValidationError(
                "A key is one line of letters, digits and signs, without spaces: is it whole, and "
                "nothing else with it?"
            )
        return key

    def to_wanted(self) -> WantedProvider:
        """What the valid form says."""
        return WantedProvider(offer=self.offer.id, **self.cleaned_data)


class SameProviderForm(PageForm):
    """An embedder that is reached as the LLM is: only its model is its own."""

    use_required_attribute = False

    def __init__(self, stored: ChosenProvider | None, data: Any = None) -> None:
        super().__init__(data, prefix="embedder-same")
        self.fields["model"] = _line(
            "Model",
            "",
            "Empty for the provider's usual one. Its dimensions are found by asking.",
            list="embedder-same-models",
        )
        self.fields["model"].initial = stored.model if stored else ""

    def to_wanted(self) -> WantedProvider:
        """What the valid form says."""
        return WantedProvider(offer=SAME, **self.cleaned_data)


_ADDRESS_EXAMPLES: Final = {
    COMPATIBLE: "http://localhost:1234/v1",
    "azure_openai": "https://your-resource.openai.azure.com",
}
_ADDRESS_HELP: Final = {
    COMPATIBLE: "As seen from this server, with its path: LM Studio, vLLM, OpenRouter and others "
    "end in /v1.",
    "azure_openai": "Of your resource, as Azure's portal shows it.",
    "ollama": "As seen from this server: inside a container, localhost is the container.",
}


def _model_help(offer: ProviderOffer, kind: str) -> str:
    if offer.provider == "azure_openai":
        return "Its name in your resource."
    if kind == "embedder":
        return "An embedding model; its dimensions are found by asking."
    return ""


def _key_help(stored: ChosenProvider | None) -> str:
    if stored is None or not stored.has_key:
        return ""
    ends = f", ends in …{stored.key_ends}" if stored.key_ends else ""
    return f"Set{ends}. Leave it empty to keep it; another address drops it."


class KeyForm(PageForm):
    """The first key."""

    EXPIRY: Final = {"90": "In 90 days", "365": "In a year", "never": "Never"}

    label = forms.CharField(
        label="Name",
        max_length=150,
        initial="First key",
        help_text="By which you recognise it later, such as the client that uses it.",
        error_messages={"required": "Give the key a name."},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    rights = forms.ChoiceField(
        choices=(("agent", "Read and write memories"), ("all", "Everything you may do")),
        initial="agent",
        error_messages={"required": "Choose what the key may do."},
    )
    expiry = forms.ChoiceField(
        label="Ends",
        choices=tuple(EXPIRY.items()),
        initial="90",
        error_messages={"required": "Choose when the key ends."},
        help_text="Clients need another one then. A key that never ends is easily forgotten.",
        widget=forms.Select(attrs={"class": "form-select"}),
    )


# The LLM is told the preset's words as well, and a line break between them.
OWN_WORDS_LENGTH: Final = USE_CASE_LENGTH - 1 - max(len(p.use_case) for p in PRESETS.values())


class UseCaseForm(PageForm):
    """The use case, and the instructions for extraction."""

    use_required_attribute = False

    preset = forms.ChoiceField(
        choices=[(name, preset.title) for name, preset in PRESETS.items()],
        error_messages={"required": "Choose one, or go on without."},
    )
    use_case = forms.CharField(
        label="In your own words",
        max_length=OWN_WORDS_LENGTH,
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    instructions = forms.CharField(
        label="Instructions",
        max_length=INSTRUCTIONS_LENGTH,
        required=False,
        widget=forms.Textarea(attrs={"rows": 10}),
    )


class TrialForm(PageForm):
    """The message to add, and the question that should find it."""

    message = forms.CharField(
        label="Somebody says",
        max_length=2000,
        error_messages={"required": "Write a sentence to remember."},
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    question = forms.CharField(
        label="Later somebody asks",
        max_length=1000,
        error_messages={"required": "Ask something that the sentence answers."},
    )
