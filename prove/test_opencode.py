"""opencode-mem0-selfhost, as published and unchanged, works against this server, tool by tool.

The plugin's own way of asking shapes what can be proved: its default search nests the ids
(`{"AND": [{"user_id": …}, {"app_id": …}]}`), which the original server refuses, and its
`get_memories` without a scope sends no id at all, which lists whatever the key may see.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from prove import npm
from prove.conftest import need, need_program
from prove.environment import ROOT, clean_environment
from prove.server import Client, Server

NODE: Final = 20
TOOLS: Final = {
    "add_memory",
    "search_memories",
    "get_memories",
    "get_memory",
    "update_memory",
    "delete_memory",
    "delete_all_memories",
    "delete_entities",
    "list_entities",
    "get_event_status",
}


@pytest.fixture(scope="module")
def plugin() -> Path:
    """The installed plugin's entry file."""
    node = need_program("node", "nodejs (version 20 or later)")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    need(
        int(version.removeprefix("v").split(".")[0]) >= NODE,
        f"node {version.strip()} is too old: install version {NODE} or later",
    )
    # Its peer dependency is a JavaScript runtime of 90 MB, which the bundled file does not need.
    modules = npm.installed(npm.OPENCODE, options=("--ignore-scripts", "--legacy-peer-deps"))
    return modules / "opencode-mem0-selfhost" / "dist" / "index.js"


class ToolError(Exception):
    """What the agent gets to read when a tool fails."""


class Session:
    """One run of the plugin in one project of one user, as OpenCode would start it."""

    def __init__(self, driver: "Driver", name: str) -> None:
        self._driver, self._name = driver, name

    def call(self, tool: str, **args: Any) -> Any:
        return self._driver.send({"on": self._name, "tool": tool, "args": args})

    def hook(self, hook: str, output: Any, **input_: Any) -> Any:
        return self._driver.send(
            {"on": self._name, "hook": hook, "input": input_, "output": output}
        )


class Driver:
    """prove/opencode.mjs in a process of its own, without the home directory of whoever runs it."""

    def __init__(self, node: str, plugin: Path, server: Server, home: Path) -> None:
        self.server = server
        self.tools: set[str] = set()
        inherited = {k: v for k, v in clean_environment().items() if not k.startswith("MEM0_")}
        self.process = subprocess.Popen(
            [node, str(ROOT / "prove" / "opencode.mjs"), str(plugin)],
            cwd=home,
            env={**inherited, "HOME": str(home), "MEM0_HOST": server.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._sessions = 0

    def send(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the plugin's process has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer["value"]

    def open(self, *, project: str, user: str = "alice", key: str | None = None) -> Session:
        self._sessions += 1
        name = f"session-{self._sessions}"
        environment = {
            "MEM0_API_KEY": key or self.server.key,
            "MEM0_USER_ID": user,
            "MEM0_APP_ID": project,
        }
        opened = self.send({"open": name, "environment": environment})
        failures = [entry for entry in opened["logged"] if entry["level"] == "error"]
        assert failures == []
        self.tools = set(opened["tools"])
        return Session(self, name)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def shared_driver(
    model: str, plugin: Path, shared_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    home = tmp_path_factory.mktemp("opencode-home")
    made = Driver(need_program("node", "nodejs"), plugin, shared_server, home)
    yield made
    made.close()


@pytest.fixture
def driver(shared_driver: Driver, empty_server: Server) -> Driver:
    """The plugin's process, and a server without any memory."""
    return shared_driver


@pytest.fixture
def alice(driver: Driver) -> Session:
    """Alice in project `boat`, beside memories of hers in `garden` and of Bob's in `boat`."""
    driver.open(project="garden").call("add_memory", text="The tomatoes get water every evening")
    driver.open(project="boat", user="bob").call(
        "add_memory", text="Bob painted the hull of the boat red"
    )
    return driver.open(project="boat")


@pytest.fixture
def rest(empty_server: Server) -> Client:
    """A look past the plugin."""
    return empty_server.client()


def texts(memories: list[dict[str, Any]]) -> set[str]:
    return {memory["memory"] for memory in memories}


def test_the_plugin_registers_the_tools_that_are_proved_here(driver: Driver) -> None:
    driver.open(project="boat")
    assert driver.tools == TOOLS


def test_a_memory_goes_through_its_whole_life_with_the_tools(alice: Session) -> None:
    [added] = alice.call("add_memory", text="We decided to use the diesel engine for the boat")
    assert added["event"] == "ADD"
    assert added["memory"] == "We decided to use the diesel engine for the boat"

    found = alice.call("search_memories", query="which motor was chosen for the vessel?")
    assert found[0]["id"] == added["id"], found
    assert texts(found) == {added["memory"]}, "a search in a project finds this project's only"

    listed = alice.call("get_memories", scope="project")
    assert listed["count"] == 1
    assert listed["results"][0]["id"] == added["id"]
    # Without a scope the plugin sends no id: an admin key then sees everybody's.
    assert added["id"] in {m["id"] for m in alice.call("get_memories")["results"]}

    kept = alice.call("get_memory", id=added["id"])
    assert kept["user_id"] == "alice"
    metadata = kept["metadata"]
    assert (metadata["app_id"], metadata["type"]) == ("boat", "task_learning")
    assert (metadata["confidence"], metadata["source"]) == (0.7, "opencode"), "echoed unchanged"
    assert metadata["files"] == ["*"]

    alice.call("update_memory", id=added["id"], text="We decided to use an electric engine")
    assert alice.call("get_memory", id=added["id"])["memory"] == (
        "We decided to use an electric engine"
    )
    alice.call("update_memory", id=added["id"], metadata={"type": "decision"})
    changed = alice.call("get_memory", id=added["id"])
    assert changed["memory"] == "We decided to use an electric engine"
    assert changed["metadata"]["type"] == "decision"
    assert changed["metadata"]["app_id"] == "boat"

    assert alice.call("delete_memory", id=added["id"]) == {"id": added["id"], "deleted": True}
    assert alice.call("get_memory", id=added["id"]) is None
    assert alice.call("search_memories", query="which motor was chosen for the vessel?") == []
    assert alice.call("get_memories", scope="project") == {"results": [], "count": 0}


def test_a_session_is_narrower_than_its_project_and_global_is_wider(
    driver: Driver, alice: Session
) -> None:
    alice.call("add_memory", text="The mast is eleven metres high")
    alice.call("add_memory", text="Today the mast is being varnished", scope="session")
    alice.call("add_memory", text="Alice likes short answers about the mast", scope="global")
    query = "what about the mast?"
    mast = {"The mast is eleven metres high", "Today the mast is being varnished"}

    assert texts(alice.call("search_memories", query=query, scope="session")) == {
        "Today the mast is being varnished"
    }
    assert mast <= texts(alice.call("search_memories", query=query, scope="project"))
    assert mast <= texts(alice.call("search_memories", query=query))
    assert texts(alice.call("get_memories", scope="session")["results"]) == {
        "Today the mast is being varnished"
    }

    later = driver.open(project="boat")
    assert later.call("search_memories", query=query, scope="session") == []
    assert mast <= texts(later.call("search_memories", query=query, scope="project"))

    garden = driver.open(project="garden")
    assert not mast & texts(garden.call("search_memories", query=query))
    everywhere = texts(garden.call("search_memories", query=query, scope="global"))
    assert mast | {"Alice likes short answers about the mast"} <= everywhere
    everything = texts(garden.call("get_memories", scope="global")["results"])
    assert mast < everything
    assert "The tomatoes get water every evening" in everything
    assert not any("Bob" in text for text in everything | everywhere), "Bob's are not Alice's"


def test_filters_of_the_agents_own_are_understood(alice: Session) -> None:
    alice.call("add_memory", text="Use the fine brush", metadata={"type": "decision"})
    alice.call("add_memory", text="The coarse brush loses hairs", metadata={"type": "bug_fix"})
    search = {"query": "brush", "filters": {"type": "decision"}}
    assert texts(alice.call("search_memories", **search)) == {"Use the fine brush"}
    nested = {"AND": [{"type": {"in": ["bug_fix", "anti_pattern"]}}]}
    assert texts(alice.call("search_memories", query="brush", filters=nested)) == {
        "The coarse brush loses hairs"
    }
    alice.call("add_memory", text="The reviewer prefers a wide brush", agent_id="reviewer")
    assert texts(alice.call("search_memories", query="brush", agent_id="reviewer")) == {
        "The reviewer prefers a wide brush"
    }


def test_deleting_all_takes_this_projects_memories_and_no_others(
    driver: Driver, alice: Session, rest: Client
) -> None:
    for number in range(3):
        alice.call("add_memory", text=f"Plank {number} of the boat is new")
    driver.open(project="boat").call("add_memory", text="Only for this run", scope="session")
    assert alice.call("delete_all_memories", scope="session") == {"deleted": 0}
    assert alice.call("delete_all_memories") == {"deleted": 4}
    remaining = {"The tomatoes get water every evening", "Bob painted the hull of the boat red"}
    assert texts(rest.listed()) == remaining


def test_entities_are_listed_and_deleted(alice: Session, rest: Client) -> None:
    alice.call("add_memory", text="The reviewer wants tests", agent_id="reviewer")
    entities = {(e["type"], e["id"]): e["total_memories"] for e in alice.call("list_entities")}
    assert entities == {("agent", "reviewer"): 1, ("user", "alice"): 2, ("user", "bob"): 1}
    assert "message" in alice.call("delete_entities", agent_id="reviewer")
    assert "message" in alice.call("delete_entities", user_id="bob")
    assert texts(rest.listed()) == {"The tomatoes get water every evening"}
    assert [e["id"] for e in alice.call("list_entities")] == ["alice"]


def test_writes_are_synchronous_so_there_is_no_event_to_ask_for(alice: Session) -> None:
    status = alice.call("get_event_status", event_id="any")
    assert (status["status"], status["event_id"]) == ("UNSUPPORTED", "any")


def test_what_the_project_knows_is_put_before_the_agents_eyes(alice: Session) -> None:
    alice.call("add_memory", text="State of the session: release builds are made with ship.sh")
    said = {"parts": [{"type": "text", "text": "How do we make a release build again?"}]}
    alice.hook("chat.message", said)
    prompt = {"messages": [{"info": {"role": "user"}, "parts": [dict(said["parts"][0])]}]}
    shown = alice.hook("experimental.chat.messages.transform", prompt)
    context = shown["messages"][0]["parts"][0]["text"]
    assert "State of the session: release builds are made with ship.sh" in context
    assert "tomatoes" not in context
    assert "Bob" not in context
    compacted = alice.hook("experimental.session.compacting", {"context": []}, sessionID="x")
    assert "ship.sh" in compacted["context"][0]


def test_a_key_limited_to_its_user_never_sees_another_users_memories(
    driver: Driver, empty_server: Server, alice: Session
) -> None:
    alice.call("add_memory", text="The boat needs a new rudder")
    hers = {"The boat needs a new rudder", "The tomatoes get water every evening"}
    limited = driver.open(project="boat", key=empty_server.make_key(user_id=["alice"]))
    assert texts(limited.call("get_memories")["results"]) == hers
    everywhere = limited.call("search_memories", query="the boat", scope="global")
    assert "The boat needs a new rudder" in texts(everywhere)
    assert texts(everywhere) <= hers
    assert limited.call("search_memories", query="the boat", user_id="bob") == []
    assert {e["id"] for e in limited.call("list_entities")} == {"alice"}
    with pytest.raises(ToolError, match="403"):
        limited.call("add_memory", text="Forged", user_id="bob")


def test_a_key_that_reads_and_writes_is_refused_only_what_needs_an_admin_and_is_told_so(
    driver: Driver, empty_server: Server, alice: Session, rest: Client
) -> None:
    plain = driver.open(project="boat", key=empty_server.make_key("read", "write"))
    [added] = plain.call("add_memory", text="The anchor weighs eight kilos")
    assert texts(plain.call("search_memories", query="how heavy is the anchor?")) == {
        added["memory"]
    }
    plain.call("update_memory", id=added["id"], text="The anchor weighs nine kilos")
    assert plain.call("get_memory", id=added["id"])["memory"] == "The anchor weighs nine kilos"
    assert plain.call("get_memories", scope="project")["count"] == 1
    assert {e["id"] for e in plain.call("list_entities")} == {"alice", "bob"}

    with pytest.raises(ToolError, match=r"\(403\): Admin role required to list all memories\."):
        plain.call("get_memories")
    with pytest.raises(ToolError, match=r"\(403\): Admin role required\."):
        plain.call("delete_entities", user_id="alice")

    other = plain.call("add_memory", text="The chain is thirty metres long")
    plain.call("delete_memory", id=added["id"])
    assert plain.call("delete_all_memories") == {"deleted": len(other)}
    assert texts(rest.listed()) == {
        "The tomatoes get water every evening",
        "Bob painted the hull of the boat red",
    }


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("add_memory", {"text": "x"}),
        ("search_memories", {"query": "x"}),
        ("get_memories", {}),
        ("get_memory", {"id": "x"}),
        ("list_entities", {}),
        ("delete_all_memories", {}),
    ],
)
def test_a_wrong_key_is_told_to_be_wrong(driver: Driver, tool: str, args: dict[str, str]) -> None:
    stranger = driver.open(project="boat", key="m0sk_" + "x" * 43)
    with pytest.raises(ToolError, match=r"\(401\): Invalid API key\."):
        stranger.call(tool, **args)
