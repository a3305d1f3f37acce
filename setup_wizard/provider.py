"""The second step: the providers that extract and embed memories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts.web import redirect_browser
from core.errors import ConflictError, InvalidInputError, ProviderError
from core.http.waiting import ProviderWait, waits_for, waits_when_posted
from memories.providers import drafts
from memories.providers import service as providers
from memories.providers.drafts import (
    LOCAL,
    NONE,
    SAME,
    UNNAMED,
    ProviderOffer,
    ProviderTrial,
    WantedProvider,
)
from setup_wizard.forms import ProviderFieldsForm, SameProviderForm
from setup_wizard.models import Progress
from setup_wizard.steps import (
    StepRequest,
    record_step,
    render_step,
    requires_open_setup,
    requires_step,
    url_of,
)

if TYPE_CHECKING:
    from memories.engine.catalogue import Configuration, Kind

DRAFT: Final = "setup_provider"
ACTIONS: Final = ("save", "save_anyway", "probe", "llm_models", "embedder_models")
CHOOSE: Final = "Choose one of these."
# What a card says below its name, and its sign.
_ABOUT: Final = {
    NONE: ("–", "No key, nothing leaves this machine"),
    "openai": ("O", "GPT models, hosted"),
    "anthropic": ("A", "Claude models, hosted"),
    "gemini": ("G", "Gemini models, hosted"),
    "azure_openai": ("Az", "Your Azure deployment"),
    "ollama": ("Ol", "Local models, no key"),
    drafts.COMPATIBLE: ("{ }", "OpenRouter, TEI, others"),
    "groq": ("Gq", "Open models, hosted"),
    "deepseek": ("D", "DeepSeek models, hosted"),
    "lmstudio": ("LM", "Local models, no key"),
    "vllm": ("vL", "Your own model server"),
    "xai": ("x", "Grok models, hosted"),
    "minimax": ("M", "MiniMax models, hosted"),
    LOCAL: ("⌂", "On this machine, English"),
    SAME: ("=", "Its address and its key"),
}
# The card of an embedder shows the proposed model; this one has none, so it shows this text.
_ABOUT_EMBEDDER: Final = {drafts.COMPATIBLE: "TEI, vLLM, others"}


@dataclass(frozen=True, slots=True)
class ProviderCard:
    """A provider to pick; `form` holds what it needs, None for nothing."""

    id: str
    title: str
    mark: str
    about: str
    checked: bool
    embeds: bool
    folded: bool
    form: ProviderFieldsForm | SameProviderForm | None


class ProviderPage:
    """The cards of both kinds, as they were chosen and filled in."""

    def __init__(self, draft: Configuration, sent: Any = None) -> None:
        self.draft, self.sent = draft, sent
        self.errors: dict[Kind, str] = {}
        self.offers: dict[Kind, list[ProviderOffer]] = {
            kind: [offer for offer in drafts.offers(kind) if offer.installed]
            for kind in drafts.KINDS
        }
        self.picked = {kind: self._picked(kind) for kind in drafts.KINDS}
        self.cards = {kind: self._cards(kind) for kind in drafts.KINDS}

    @property
    def folds_open(self) -> bool:
        """Whether the picked card is in the folded part."""
        return any(card.folded and card.checked for card in self.cards["embedder"])

    def _picked(self, kind: Kind) -> str:
        if self.sent is not None:
            return str(self.sent.get(kind, ""))
        choice = drafts.choice_of(self.draft, kind)
        return SAME if choice.same else choice.offer

    def _cards(self, kind: Kind) -> list[ProviderCard]:
        titles = {NONE: "No provider", LOCAL: "Local model", SAME: "Same as above"}
        own = [NONE] if kind == "llm" else [LOCAL, SAME]
        cards = [self._card(kind, name, titles[name], None) for name in own]
        cards += [self._card(kind, offer.id, offer.title, offer) for offer in self.offers[kind]]
        return cards

    def _card(self, kind: Kind, name: str, title: str, offer: ProviderOffer | None) -> ProviderCard:
        mark, about = _ABOUT.get(name, (title[:2], ""))
        if kind == "embedder" and offer is not None:
            about = _ABOUT_EMBEDDER.get(name) or offer.model
        form = self._form(kind, name, offer)
        checked = name == self.picked[kind]
        embeds, folded = bool(offer and offer.embeds), kind == "embedder" and offer is not None
        return ProviderCard(name, title, mark, about, checked, embeds, folded, form)

    def _form(
        self, kind: Kind, name: str, offer: ProviderOffer | None
    ) -> ProviderFieldsForm | SameProviderForm | None:
        data = self.sent if self.sent is not None and name == self.picked[kind] else None
        if name == SAME:
            stored = drafts.choice_of(self.draft, kind)
            return SameProviderForm(stored if stored.same else None, data)
        if offer is None:
            return None
        choice = drafts.find_choice(self.draft, kind, offer.id)
        return ProviderFieldsForm(offer, kind, None if choice and choice.same else choice, data)

    def read_wanted(self, kind: Kind, *, unnamed: bool = False) -> WantedProvider | None:
        """What was sent for this kind; None where it does not fit, which the page then says.
        `unnamed` lets a model be still to be picked."""
        name = self.picked[kind]
        card = next((card for card in self.cards[kind] if card.id == name), None)
        if card is None:
            self.errors[kind] = CHOOSE
            return None
        if card.form is None:
            return WantedProvider(name)
        if unnamed:
            card.form.fields["model"].required = False
        if not card.form.is_valid():
            return None
        wanted_provider = card.form.to_wanted()
        return (
            replace(wanted_provider, model=wanted_provider.model or UNNAMED)
            if unnamed
            else wanted_provider
        )

    def fail(self, kind: Kind, message: str) -> None:
        self.errors[kind] = message

    def go_on_with_model(self, kind: Kind, *, listed: bool) -> None:
        """Finds no fault with what is still empty, for nothing is saved yet; where models are
        `listed`, one is picked next."""
        for name in drafts.KINDS:
            for form in (card.form for card in self.cards[name] if card.checked and card.form):
                for empty in [field for field in form.errors if not form[field].value()]:
                    del form.errors[empty]
                if listed and name == kind:
                    form.fields["model"].widget.attrs["autofocus"] = True


@waits_for(waits_when_posted(ProviderWait.PROVIDERS))
@sensitive_post_parameters()
@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
@requires_step
def provider(request: StepRequest) -> HttpResponseBase:
    """Choosing, trying out and saving the providers."""
    draft = drafts.unseal(request.session.get(DRAFT))
    if request.method != "POST":
        return _shown(request, ProviderPage(draft))
    action = request.POST.get("action", "save")
    if action not in ACTIONS:
        raise InvalidInputError("That cannot be done here.")
    page = ProviderPage(draft, request.POST)
    kind = cast("Kind", action.removesuffix("_models")) if action.endswith("_models") else None
    new_draft = _drafted(page, kind)
    if new_draft is None:
        return _shown(request, page, status=422)
    # The draft keeps what was typed. The page itself never holds a key.
    request.session[DRAFT] = drafts.seal(new_draft)
    page = ProviderPage(new_draft, _without_keys(request.POST))
    if kind:
        choice = getattr(new_draft, kind)
        names = providers.models(choice, kind) if choice else providers.ModelNames(())
        page.go_on_with_model(kind, listed=bool(names.names))
        return _shown(request, page, models={kind: names})
    trial = drafts.try_draft(request.principal, new_draft)
    if action == "probe" or not (trial.ok or action == "save_anyway"):
        return _shown(request, page, trial=trial, status=200 if action == "probe" else 422)
    return _saved(request, page, new_draft, trial)


def _drafted(page: ProviderPage, listed_kind: Kind | None) -> Configuration | None:
    """The draft that the sent forms make; None where something does not fit, which they tell. Who
    asks for the models of one kind may have left the other unfinished."""
    draft = page.draft
    for kind in drafts.KINDS:
        leads = kind == "llm" and page.picked["embedder"] == SAME
        if listed_kind not in {None, kind} and not leads:
            continue
        wanted_provider = page.read_wanted(kind, unnamed=listed_kind is not None)
        if wanted_provider is None:
            # The forms of both kinds are looked at, so that all errors show at once.
            page.read_wanted("embedder", unnamed=listed_kind is not None)
            return None
        try:
            either = (wanted_provider, None) if kind == "llm" else (None, wanted_provider)
            draft = drafts.make_draft(draft, *either)
        except InvalidInputError as error:
            page.fail(kind, error.message)
            return None
    return draft


def _without_keys(data: Any) -> Any:
    """The form's data without API keys, which the draft has now: an empty field keeps them."""
    copy = data.copy()
    for name in list(copy):
        if name.endswith("-api_key"):
            copy[name] = ""
    return copy


def _saved(
    request: StepRequest, page: ProviderPage, draft: Configuration, trial: ProviderTrial
) -> HttpResponseBase:
    try:
        drafts.use_draft(request.principal, draft, trial)
    except (InvalidInputError, ConflictError, ProviderError) as error:
        page.fail("embedder", error.message)
        return _shown(request, page, trial=trial, status=422)
    request.session.pop(DRAFT, None)
    with transaction.atomic():
        Progress.objects.filter(id=1).update(provider_chosen_at=timezone.now())
        record_step(request, "provider")
    if trial.ok and (trial.llm or trial.embedder):
        messages.success(request, f"Saved. {_told(draft, trial)}")
    return redirect_browser(request, url_of("key"))


def _told(draft: Configuration, trial: ProviderTrial) -> str:
    """Both models and how fast they answered, in one line."""
    sentences = []
    if draft.llm and trial.llm and trial.llm.ok:
        sentences.append(f"{draft.llm.model} answered in {trial.llm.latency_ms:,.0f} ms.")
    if draft.embedder and trial.embedder and trial.embedder.ok:
        sentences.append(
            f"{draft.embedder.model} answered in {trial.embedder.latency_ms:,.0f} ms, with "
            f"{trial.embedder.dims} dimensions."
        )
    return " ".join(sentences)


def _shown(
    request: StepRequest,
    page: ProviderPage,
    *,
    trial: ProviderTrial | None = None,
    models: dict[Kind, providers.ModelNames] | None = None,
    status: int = 200,
) -> HttpResponse:
    return render_step(
        request,
        "provider",
        page=page,
        draft=page.draft,
        trial=trial,
        told=_told(page.draft, trial) if trial else "",
        models=models or {},
        absent=[offer for offer in drafts.offers("llm") if not offer.installed],
        local_is_prepared=drafts.local_model_is_prepared(),
        in_use=drafts.model_in_use(),
        status=status,
    )
