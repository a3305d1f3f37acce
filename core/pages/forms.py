"""The forms of pages; templates/_field.html renders them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator

from core import names, zones
from core.errors import NotUnderstoodError


class PageField(forms.BoundField):
    """A field whose input has the CSS classes of the design."""

    def build_widget_attrs(self, attrs: dict[str, Any], widget: Any = None) -> dict[str, Any]:
        built = super().build_widget_attrs(attrs, widget)
        own = (widget or self.field.widget).attrs.get("class", "form-control")
        built["class"] = f"{own} is-invalid" if self.errors else own
        return built


class PageForm(forms.Form):
    """The base of all forms. A misspelt field name is an error, because its value would be lost.
    With `takes`, every name that is neither a field nor one of these is an error."""

    bound_field_class = PageField
    takes: ClassVar[frozenset[str] | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)

    def _post_clean(self) -> None:
        """Django's hook for checks after `clean`, which subclasses use themselves."""
        super()._post_clean()  # type: ignore[misc]  # the stubs leave it out
        field_names = {self.add_prefix(name) for name in self.fields}
        unknown = set(self.data) - field_names - {"csrfmiddlewaretoken"}
        if self.takes is None:
            unknown = {name for name in unknown if names.is_misspelt(name, field_names)}
        else:
            unknown -= self.takes
        try:
            names.refuse(unknown, field_names, "This form")
        except NotUnderstoodError as error:
            self.add_error(None, error.message)


@dataclass(frozen=True, slots=True)
class FormChip:
    """An active filter: its words, and the query string without it."""

    label: str
    value: str
    without: str


class FilterForm(PageForm):
    """The filters of a list in its address, as a form; templates/_filters.html draws it.

    Its fields are optional. Bind it to request.GET; other parameters are not carried over into the
    addresses that it makes.
    """

    def _post_clean(self) -> None:
        """Does nothing, because `clean` makes the same check with a filter's message."""

    # Parameters that the address may have in addition to the fields.
    beside: ClassVar[frozenset[str]] = frozenset({"behind"})

    def __init__(self, *args: Any, time_zone: str = zones.UNIVERSAL, **kwargs: Any) -> None:
        """`time_zone` is the IANA name of the zone of the form's days."""
        super().__init__(*args, **kwargs)
        self.time_zone = time_zone
        for field in self.fields.values():
            if isinstance(field, DayField):
                field.label = f"{field.label} ({time_zone})"

    def clean(self) -> dict[str, Any]:
        """Refuses parameters that are not fields, because a typo must never show a wider list."""
        cleaned = super().clean() or self.cleaned_data
        try:
            names.check_page(self.data, {*self.fields, *self.beside})
            names.check_once(dict(getattr(self.data, "lists", dict)()), self.fields)
        except NotUnderstoodError as error:
            raise forms.ValidationError(error.message) from error
        return cleaned

    def active_values(self) -> dict[str, str]:
        """The non-empty fields, with their values in the address. Call after `is_valid`."""
        values = {name: str(self.data.get(name, "")).strip() for name in self.fields}
        return {name: value for name, value in values.items() if value and self.cleaned_data[name]}

    def query_string(self, **changes: str) -> str:
        """The query string of the same list with `changes`; "" removes a field."""
        values = self.active_values() | changes
        return urlencode({name: value for name, value in values.items() if value})

    def chips(self) -> Iterator[FormChip]:
        """The active filters, in the order of the fields."""
        if not self.is_valid():
            return
        for name, value in self.active_values().items():
            field = self.fields[name]
            label = dict(field.choices).get(value, value) if hasattr(field, "choices") else value
            yield FormChip(str(field.label), str(label), self.query_string(**{name: ""}))

    def has_empty_parameters(self) -> bool:
        """Whether the address has empty fields, as a form without a script sends them."""
        return any(name in self.data and not self.data[name] for name in self.fields)


# All stored dates lie within these, and calendars end.
_FIRST_DAY: Final = date(1970, 1, 1)
_LAST_DAY: Final = date(9000, 1, 1)


class DayField(forms.DateField):
    """A day; its label names the time zone."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
        super().__init__(widget=widget, required=False, input_formats=["%Y-%m-%d"], **kwargs)
        self.error_messages["invalid"] = "Enter a day such as 2026-11-20."
        self.validators += [MinValueValidator(_FIRST_DAY), MaxValueValidator(_LAST_DAY)]
