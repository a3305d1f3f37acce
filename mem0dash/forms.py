"""Forms as pages show them: templates/_field.html draws what these describe."""

from typing import Any

from django import forms


class PageField(forms.BoundField):
    """A field whose input has the classes that the look needs."""

    def build_widget_attrs(self, attrs: dict[str, Any], widget: Any = None) -> dict[str, Any]:
        built = super().build_widget_attrs(attrs, widget)
        own = (widget or self.field.widget).attrs.get("class", "form-control")
        built["class"] = f"{own} is-invalid" if self.errors else own
        return built


class PageForm(forms.Form):
    """The base of all forms."""

    bound_field_class = PageField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
