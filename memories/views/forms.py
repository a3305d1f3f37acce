"""The forms of the memory pages: adding, editing, naming a view."""

import json
from datetime import date
from typing import Any, Final

from django import forms

from core.pages.forms import DayField, PageForm
from core.rest.json import loads
from memories.browse.saved_views import MAX_NAME
from memories.models import Confidence

TEXT_LENGTH: Final = 50_000
ID_LENGTH: Final = 255
VERBATIM: Final = "verbatim"
EXTRACTED: Final = "extracted"


class MemoryTextField(forms.CharField):
    """The text of a memory, to the letter: browsers send other line ends than were stored."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            label="Text",
            max_length=TEXT_LENGTH,
            strip=False,
            widget=forms.Textarea(attrs={"rows": 5}),
            error_messages={"required": "Enter the text that is to be remembered."},
            **kwargs,
        )

    def to_python(self, value: Any) -> str:
        text = unix_lines(str(super().to_python(value) or ""))
        return text if text.strip() else ""


def unix_lines(text: str) -> str:
    """`text` with line ends of one character."""
    return text.replace("\r\n", "\n")


class MetadataField(forms.CharField):
    """A JSON object, {} where nothing is entered."""

    def __init__(self, **kwargs: Any) -> None:
        area = forms.Textarea(
            attrs={"rows": 4, "spellcheck": "false", "class": "form-control font-monospace"}
        )
        super().__init__(required=False, max_length=TEXT_LENGTH, widget=area, **kwargs)

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        try:
            # As strictly as the API reads it: what is kept has to be shown, indexed and exported.
            parsed = loads((text or "{}").encode())
        except ValueError as error:
            raise forms.ValidationError(
                f"This is no JSON: {str(error)[:150]}." if text else "This is no JSON."
            ) from None
        if not isinstance(parsed, dict):
            raise forms.ValidationError('Enter an object, such as {"project": "atlas"}.')
        return parsed

    def validate(self, value: Any) -> None:
        """An object is valid; what CharField asks is asked of texts."""

    def run_validators(self, value: Any) -> None:
        """None for an object; the length is checked by the widget and by the request's limit."""


def format_metadata(metadata: Any) -> str:
    """Metadata as the field shows it."""
    return json.dumps(metadata, ensure_ascii=False, indent=2) if metadata else ""


class EditForm(PageForm):
    """Text and metadata of a memory; `rev` says which state of it the form starts from."""

    takes = frozenset({"next", "step"})
    text = MemoryTextField()
    metadata = MetadataField(label="Metadata", help_text="A JSON object.")
    rev = forms.IntegerField(min_value=0, widget=forms.HiddenInput)


def _entity(label: str, hint: str = "") -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        max_length=ID_LENGTH,
        help_text=hint,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )


class AddForm(PageForm):
    """A memory by hand."""

    takes = frozenset({"next", "how"})
    text = MemoryTextField()
    how = forms.ChoiceField(
        label="How to store it",
        choices=[
            (VERBATIM, "Word for word, as one memory"),
            (EXTRACTED, "Let the language model extract the facts"),
        ],
        initial=VERBATIM,
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
    )
    user_id = _entity("User")
    agent_id = _entity("Agent")
    app_id = _entity("App")
    run_id = _entity("Run")
    source = forms.CharField(
        label="Source",
        required=False,
        max_length=100,
        initial="dashboard",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    confidence = forms.ChoiceField(
        label="Confidence",
        required=False,
        choices=[("", "Not said"), *Confidence.choices[:3]],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    last_day = DayField(label="Last day", help_text="The last day (UTC) on which it holds.")
    metadata = MetadataField(label="Metadata", help_text='A JSON object: {"project": "atlas"}.')

    def __init__(self, *args: Any, may_extract: bool, default_user_id: str = "", **kw: Any) -> None:
        super().__init__(*args, **kw)
        if not may_extract:
            del self.fields["how"]
        if default_user_id:
            self.fields["user_id"].help_text = f"{default_user_id}, where no other is named."

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        last_day: date | None = values.get("last_day")
        if last_day is not None and last_day < date(1970, 1, 1):
            self.add_error("last_day", "Enter a later day.")
        return values


class ViewForm(PageForm):
    """The name under which a selection is kept."""

    name = forms.CharField(
        label="Name",
        max_length=MAX_NAME,
        error_messages={"required": "Give the view a name."},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    shared = forms.BooleanField(
        label="Show it to everyone in the project",
        required=False,
        widget=forms.CheckboxInput(attrs={"class": "form-check-input"}),
    )
