"""Common use cases, with ready instructions."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """A use case: `use_case` is what an LLM is told of it, `instructions` stand in for what it
    would write, `message` is what a user might say, `question` what that answers."""

    name: str
    title: str
    detail: str
    mark: str
    use_case: str
    instructions: str
    message: str
    question: str


_ALL: Final = (
    Preset(
        "coding",
        "Coding assistant",
        "OpenCode, Claude Code, an editor",
        "</>",
        "A coding assistant that works with one developer on several repositories.",
        "Keep: the developer's conventions and preferences (tools, libraries, style, tests), "
        "decisions about a project with their reason, how a project is built, run and deployed, "
        "mistakes that cost time and how they were solved.\n"
        "Name the project that a memory is about. Keep versions, commands and paths exactly as "
        "they were given.\n"
        "Leave out: what the code or its history says by itself, steps of the task at hand, and "
        "any password, token or key.",
        "In the billing service we use uv and pytest, never pip or unittest.",
        "Which test runner does the billing service use?",
    ),
    Preset(
        "personal",
        "Personal assistant",
        "Preferences, plans, people",
        "Me",
        "A personal assistant that one person talks to every day.",
        "Keep: lasting preferences, habits, plans with their dates, the people in the user's life "
        "and how they are related, health and diet where the user mentions them, places, "
        "belongings.\n"
        "Write each memory so that it can be understood alone, with names and dates instead of "
        "“she” or “tomorrow”.\n"
        "Leave out: small talk, moods of the moment, general knowledge, and any password or "
        "number of a card.",
        "I only fly out of Gothenburg, and I never eat peanuts.",
        "Which airport should I book from?",
    ),
    Preset(
        "support",
        "Customer support",
        "What a customer has told you",
        "?",
        "A support agent that talks with customers of a company and should not ask twice.",
        "Keep: which products and plans the customer has, their set-up and versions, problems "
        "they reported with the outcome, what was promised to them and until when, how they want "
        "to be contacted.\n"
        "Name the product and the order or ticket number exactly.\n"
        "Leave out: greetings, complaints without a fact in them, data of payment, and whatever "
        "concerns another customer.",
        "I run version 4.2 on a Raspberry Pi, and please only write to me by e-mail.",
        "How does this customer want to be contacted?",
    ),
    Preset(
        "research",
        "Research and notes",
        "Findings, sources, questions",
        "Aa",
        "A research companion that reads with its user and remembers findings and sources.",
        "Keep: findings with the source they come from, figures with their unit and date, "
        "definitions the user settled on, open questions, what was ruled out and why.\n"
        "One finding for each memory. Quote names, titles and figures exactly; say so when "
        "something is a guess.\n"
        "Leave out: opinions of the assistant, and what is in any encyclopaedia.",
        "The 2019 survey found 41 percent, but it only asked people in cities.",
        "What is the weakness of the 2019 survey?",
    ),
    Preset(
        "household",
        "Family and home",
        "Appointments, allergies, repairs",
        "⌂",
        "An assistant for a family: several people, one home.",
        "Keep: for each person by name their allergies, sizes, schools, appointments and wishes; "
        "for the home its appliances with model and date of purchase, repairs, contracts with "
        "their end, where things are kept.\n"
        "Always say whom or which room a memory is about, and the date where one was named.\n"
        "Leave out: arguments, and codes of locks or alarms.",
        "Ilse is allergic to penicillin, and the boiler was serviced in March.",
        "What should a doctor know about Ilse?",
    ),
    Preset(
        "other",
        "Something else",
        "In your own words",
        "…",
        "",
        "Keep facts about the user that will still be true and useful next month: preferences, "
        "decisions with their reason, plans with their dates, people and things by name.\n"
        "Write each memory so that it can be understood alone.\n"
        "Leave out: small talk, steps of the task at hand, general knowledge, and any password "
        "or key.",
        "I like to hike on weekends, but never in the rain.",
        "What does the user do on weekends?",
    ),
)
PRESETS: Final = {preset.name: preset for preset in _ALL}
