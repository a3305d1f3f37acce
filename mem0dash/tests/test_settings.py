"""Settings from the environment: every mistake is one sentence that names the variable."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from mem0dash.checks import check_paths

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
SOUND = {"SECRET_KEY": "s" * 50, "ENCRYPTION_KEY": Fernet.generate_key().decode()}


def python(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python …` with nothing but these variables in its environment."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**inherited, "MEM0DASH_DATA_DIR": str(data), **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def manage(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(data, "manage.py", *arguments, **environment)


def printed(data: Path, what: str, **environment: str) -> str:
    """What a process prints that reads the settings, known as `s`, and nothing else."""
    environment["DJANGO_SETTINGS_MODULE"] = "mem0dash.settings"
    script = f"import json; from django.conf import settings as s; print({what})"
    return python(data, "-c", script, **environment).stdout.strip()


# Environment that is wrong, and the variable that the sentence has to name.
WRONG: dict[str, tuple[dict[str, str], str]] = {
    "PORT is a word": ({"PORT": "http"}, "PORT"),
    "PORT is out of range": ({"PORT": "70000"}, "PORT"),
    "PORT is blank": ({"PORT": " "}, "PORT"),
    "THREADS is none": ({"THREADS": "0"}, "THREADS"),
    "THREADS is a fraction": ({"THREADS": "1.5"}, "THREADS"),
    "LATE_INTERACTION is neither": ({"LATE_INTERACTION": "maybe"}, "LATE_INTERACTION"),
    "AUTH_DISABLED is neither": ({"AUTH_DISABLED": "maybe"}, "AUTH_DISABLED"),
    "ADMIN_API_KEY is short": ({"ADMIN_API_KEY": "secret"}, "ADMIN_API_KEY"),
    "MEM0_API_KEY is short": ({"MEM0_API_KEY": "secret"}, "MEM0_API_KEY"),
    "MEM0_DEFAULT_USER_ID has a space": ({"MEM0_DEFAULT_USER_ID": "a b"}, "MEM0_DEFAULT_USER_ID"),
    "DEFAULT_TIME_ZONE is no zone": ({"DEFAULT_TIME_ZONE": "Berlin"}, "DEFAULT_TIME_ZONE"),
    "DEFAULT_TIME_ZONE is a path": ({"DEFAULT_TIME_ZONE": "../UTC"}, "DEFAULT_TIME_ZONE"),
    "DEFAULT_TIME_ZONE is the machine's": (
        {"DEFAULT_TIME_ZONE": "localtime"},
        "DEFAULT_TIME_ZONE",
    ),
    "DEFAULT_TIME_ZONE is an offset": ({"DEFAULT_TIME_ZONE": "+02:00"}, "DEFAULT_TIME_ZONE"),
    "RATE_LIMIT_AUTH_FAILURES is negative": (
        {"RATE_LIMIT_AUTH_FAILURES": "-1"},
        "RATE_LIMIT_AUTH_FAILURES",
    ),
    "RATE_LIMIT_AUTH_WINDOW_SECONDS is none": (
        {"RATE_LIMIT_AUTH_WINDOW_SECONDS": "0"},
        "RATE_LIMIT_AUTH_WINDOW_SECONDS",
    ),
    "METRICS_PUBLIC is neither": ({"METRICS_PUBLIC": "some"}, "METRICS_PUBLIC"),
    "PUBLIC_BASE_URL has no scheme": ({"PUBLIC_BASE_URL": "example.org"}, "PUBLIC_BASE_URL"),
    "PUBLIC_URL has two names that differ": (
        {"PUBLIC_URL": "https://a.example", "PUBLIC_BASE_URL": "https://b.example"},
        "PUBLIC_URL and PUBLIC_BASE_URL",
    ),
    "QDRANT_URL and QDRANT_HOST differ": (
        {"QDRANT_URL": "http://a:6333", "QDRANT_HOST": "b", "DATABASE_URL": "postgres://a@b/c"},
        "QDRANT_URL and QDRANT_HOST",
    ),
    "SECRET_KEY is short": ({"SECRET_KEY": "secret"}, "SECRET_KEY"),
    "JWT_SECRET is short": ({"JWT_SECRET": "secret" * 5}, "JWT_SECRET"),
    "SETUP_TOKEN is short": ({"SETUP_TOKEN": "secret"}, "SETUP_TOKEN"),
    "DASHBOARD_URL has no scheme": ({"DASHBOARD_URL": "example.org"}, "DASHBOARD_URL"),
    "DASHBOARD_URL is everybody": ({"DASHBOARD_URL": "*"}, "DASHBOARD_URL"),
    "DASHBOARD_URL has a user": ({"DASHBOARD_URL": "https://a@b.example"}, "DASHBOARD_URL"),
    "MCP_ALLOWED_ORIGINS has no scheme": (
        {"MCP_ALLOWED_ORIGINS": "http://localhost:6274, example.org"},
        "MCP_ALLOWED_ORIGINS",
    ),
    "DASHBOARD_URL has a wrong port": ({"DASHBOARD_URL": "http://a:99999"}, "DASHBOARD_URL"),
    "REQUEST_LOG_RETENTION_DAYS is none": (
        {"REQUEST_LOG_RETENTION_DAYS": "0"},
        "REQUEST_LOG_RETENTION_DAYS",
    ),
    "ENCRYPTION_KEY is no key": ({"ENCRYPTION_KEY": "nonsense"}, "ENCRYPTION_KEY"),
    "ENCRYPTION_KEY is a comma": ({"ENCRYPTION_KEY": ","}, "ENCRYPTION_KEY"),
    "ENCRYPTION_KEY: the second is no key": (
        {"ENCRYPTION_KEY": f"{Fernet.generate_key().decode()},nonsense"},
        "ENCRYPTION_KEY",
    ),
    "DATABASE_POOL_SIZE is negative": ({"DATABASE_POOL_SIZE": "-1"}, "DATABASE_POOL_SIZE"),
    "QDRANT_URL has no scheme": ({"QDRANT_URL": "qdrant:6333"}, "QDRANT_URL"),
    "QDRANT_URL has a wrong port": ({"QDRANT_URL": "http://qdrant:99999"}, "QDRANT_URL"),
    "QDRANT_URL holds a password": ({"QDRANT_URL": "http://a:b@qdrant"}, "QDRANT_API_KEY"),
    "QDRANT_URL without PostgreSQL": ({"QDRANT_URL": "http://qdrant:6333"}, "DATABASE_URL"),
    "QDRANT_HOST without PostgreSQL": ({"QDRANT_HOST": "qdrant"}, "DATABASE_URL"),
    "QDRANT_PORT is out of range": (
        {"QDRANT_HOST": "qdrant", "QDRANT_PORT": "0"},
        "QDRANT_PORT",
    ),
    "QDRANT_API_KEY has two lines": ({"QDRANT_API_KEY": "top\nsecret"}, "QDRANT_API_KEY"),
    "QDRANT_API_KEY is no ASCII": ({"QDRANT_API_KEY": "schlüssel"}, "QDRANT_API_KEY"),
    "QDRANT_COLLECTION is a path": ({"QDRANT_COLLECTION": "../x"}, "QDRANT_COLLECTION"),
    "QDRANT_TIMEOUT is none": ({"QDRANT_TIMEOUT": "0"}, "QDRANT_TIMEOUT"),
    "PUBLIC_URL has no scheme": ({"PUBLIC_URL": "memory.example.org"}, "PUBLIC_URL"),
    "PUBLIC_URL has another scheme": ({"PUBLIC_URL": "ftp://example.org"}, "PUBLIC_URL"),
    "PUBLIC_URL is for every host": ({"PUBLIC_URL": "https://*"}, "PUBLIC_URL"),
    "PUBLIC_URL has no host": ({"PUBLIC_URL": "https://"}, "PUBLIC_URL"),
    "PUBLIC_URL has a query": ({"PUBLIC_URL": "https://a.example/mem?x=1"}, "PUBLIC_URL"),
    "PUBLIC_URL has a fragment": ({"PUBLIC_URL": "https://a.example/mem#x"}, "PUBLIC_URL"),
    "PUBLIC_URL has a password": ({"PUBLIC_URL": "https://u:p@a.example"}, "PUBLIC_URL"),
    "PUBLIC_URL has two words": ({"PUBLIC_URL": "https://a.example/a b"}, "PUBLIC_URL"),
    "PUBLIC_URL leads elsewhere": ({"PUBLIC_URL": "https://a.example//b.example"}, "PUBLIC_URL"),
    "PUBLIC_URL leads upwards": ({"PUBLIC_URL": "https://a.example/../x"}, "PUBLIC_URL"),
    "PUBLIC_URL has half a bracket": ({"PUBLIC_URL": "https://[::1"}, "PUBLIC_URL"),
    "TRUSTED_PROXIES names no address": ({"TRUSTED_PROXIES": "10.0.0.1,lan"}, "TRUSTED_PROXIES"),
    "TRUSTED_PROXIES has a wide mask": ({"TRUSTED_PROXIES": "10.0.0.0/99"}, "TRUSTED_PROXIES"),
    "TRUSTED_PROXIES has half a quote": ({"TRUSTED_PROXIES": '"10.0.0.1'}, "TRUSTED_PROXIES"),
    "ALLOWED_HOSTS names a file": ({"ALLOWED_HOSTS": "a.example/b"}, "ALLOWED_HOSTS"),
    "ALLOWED_HOSTS has a star inside": ({"ALLOWED_HOSTS": "a.*.example"}, "ALLOWED_HOSTS"),
    "ALLOWED_HOSTS is half a list": ({"ALLOWED_HOSTS": '["a.example"'}, "ALLOWED_HOSTS"),
    "ALLOWED_HOSTS is everybody, without a key": (
        {"ALLOWED_HOSTS": "*", "AUTH_DISABLED": "1"},
        "ALLOWED_HOSTS",
    ),
    "DATABASE_URL is a word": ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
    "DATABASE_URL names another database": ({"DATABASE_URL": "mysql://a/b"}, "DATABASE_URL"),
    "DATABASE_URL has no port": ({"DATABASE_URL": "postgres://a:b@c:d/e"}, "DATABASE_URL"),
    "DATABASE_URL names no file": ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL"),
    "LOG_LEVEL is unknown": ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
    "a file is missing": ({"SECRET_KEY_FILE": "/nowhere/key"}, "SECRET_KEY_FILE"),
    "a file is a directory": ({"PORT_FILE": "/"}, "PORT_FILE"),
    "a file is empty": ({"ADMIN_API_KEY_FILE": "/dev/null"}, "ADMIN_API_KEY_FILE"),
    "a file and a value": (
        {"ADMIN_API_KEY": "x" * 20, "ADMIN_API_KEY_FILE": "/dev/null"},
        "ADMIN_API_KEY_FILE",
    ),
    "the data directory is a file": (
        {"MEM0DASH_DATA_DIR": str(ROOT / "manage.py")},
        "MEM0DASH_DATA_DIR",
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: Any) -> Iterator[dict[str, subprocess.CompletedProcess[str]]]:
    """`manage.py check` in every wrong environment, two at a time."""
    data = Path(tmp_path_factory.mktemp("data"))

    def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        # A value beside its file would be a mistake of its own.
        sound = {k: v for k, v in SOUND.items() if f"{k}_FILE" not in environment}
        return manage(data, "check", **{**sound, **environment})

    with ThreadPoolExecutor(2) as pool:
        done = pool.map(check, [environment for environment, _ in WRONG.values()])
        yield dict(zip(WRONG, done, strict=True))


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_setting_stops_the_start_with_one_sentence(
    outcomes: dict[str, subprocess.CompletedProcess[str]], mistake: str
) -> None:
    done, name = outcomes[mistake], WRONG[mistake][1]
    told = done.stderr.strip()
    assert done.returncode != 0
    assert "Traceback" not in told
    assert name in told
    assert len(told.splitlines()) == 1, told
    assert told.startswith("mem0dash cannot start: ") and told.endswith((".", ")."))
    for secret in (SOUND["SECRET_KEY"], SOUND["ENCRYPTION_KEY"], "secret"):
        assert secret not in told


def test_without_any_setting_the_service_is_ready_to_start(tmp_path: Path) -> None:
    done = manage(tmp_path / "new", "check")
    assert (done.returncode, "no issues" in done.stdout) == (0, True), done.stderr


def test_made_secrets_are_for_the_owner_alone_and_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    assert manage(data, "check").returncode == 0
    made = {}
    for name in ("secret_key", "encryption_key", "jwt_secret"):
        path = data / name
        assert path.stat().st_mode & 0o777 == 0o600
        made[name] = path.read_text().strip()
    assert len(made["secret_key"]) >= 50
    assert len(made["jwt_secret"]) >= 50
    assert not (data / "setup_token").exists()  # no server has been started
    Fernet(made["encryption_key"])
    assert manage(data, "check").returncode == 0
    assert {name: (data / name).read_text().strip() for name in made} == made
    assert sorted(p.name for p in data.iterdir() if p.name.startswith(".")) == []


def test_two_starts_at_once_agree_on_the_secrets(tmp_path: Path) -> None:
    what = "s.SECRET_KEY, s.JWT_SECRET, *s.ENCRYPTION_KEYS"
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: printed(tmp_path, what), range(3)))
    assert len(set(runs)) == 1 and len(runs[0].split()) == 3


def test_an_emptied_secret_is_told_and_never_replaced(tmp_path: Path) -> None:
    assert manage(tmp_path, "check").returncode == 0
    (tmp_path / "encryption_key").write_text("")
    done = manage(tmp_path, "check")
    assert done.returncode != 0
    assert "ENCRYPTION_KEY" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "encryption_key").read_text() == ""


def test_secrets_that_others_can_read_are_warned_of(tmp_path: Path) -> None:
    assert manage(tmp_path, "check").returncode == 0
    (tmp_path / "secret_key").chmod(0o644)
    done = manage(tmp_path, "check")
    assert done.returncode == 0
    assert "mem0dash.W001" in done.stderr and "chmod 600" in done.stderr


def test_every_setting_can_come_from_a_file(tmp_path: Path) -> None:
    values = {**SOUND, "ADMIN_API_KEY": "a" * 20, "PORT": "8123", "PUBLIC_URL": "https://m.example"}
    values |= {"THREADS": "5", "ALLOWED_HOSTS": "one.example, two.example", "AUTH_DISABLED": "no"}
    files = {}
    for name, value in values.items():
        path = tmp_path / name
        path.write_text(f"  {value}\n")
        files[f"{name}_FILE"] = str(path)
    what = "s.SECRET_KEY, *s.ENCRYPTION_KEYS, s.ADMIN_API_KEY, s.PORT, s.PUBLIC_URL, s.THREADS, "
    what += "s.NAMED_HOSTS, s.AUTH_DISABLED"
    assert printed(tmp_path, what, **files) == (
        f"{SOUND['SECRET_KEY']} {SOUND['ENCRYPTION_KEY']} {'a' * 20} 8123 https://m.example 5 "
        "['one.example', 'two.example', 'm.example'] False"
    )
    assert not (tmp_path / "secret_key").exists()


def test_the_names_of_mem0_server_are_understood(tmp_path: Path) -> None:
    what = "s.MEM0_API_KEY, s.MEM0_DEFAULT_USER_ID, s.PUBLIC_URL, "
    what += "s.RATE_LIMIT_AUTH_FAILURES, s.RATE_LIMIT_AUTH_WINDOW_SECONDS"
    theirs = {
        "MEM0_API_KEY": "f" * 64,
        "MEM0_DEFAULT_USER_ID": "default-user",
        "PUBLIC_BASE_URL": "https://mem0.your-domain.com/",
        "RATE_LIMIT_AUTH_FAILURES": "3",
        "RATE_LIMIT_AUTH_WINDOW_SECONDS": "90",
        "TRUST_FORWARDED_FOR": "true",
    }
    told = f"{'f' * 64} default-user https://mem0.your-domain.com 3 90"
    assert printed(tmp_path, what, **theirs) == told
    both = {**theirs, "PUBLIC_URL": "https://mem0.your-domain.com/"}
    assert printed(tmp_path, what, **both) == told
    # Believing whoever forwards an address is not: that is said.
    assert "mem0dash.W004" in manage(tmp_path, "check", **theirs).stderr
    assert "W004" not in manage(tmp_path, "check", **theirs, TRUSTED_PROXIES="10.0.0.1").stderr


def test_lists_are_understood_however_they_are_written(tmp_path: Path) -> None:
    first, second = (Fernet.generate_key().decode() for _ in range(2))
    what = "json.dumps([s.NAMED_HOSTS, [str(n) for n in s.TRUSTED_PROXIES], s.ENCRYPTION_KEYS])"
    for hosts, proxies, keys in (
        ('["a.example", "b.example"]', '["10.0.0.1", "10.1.0.0/16"]', f'["{first}", "{second}"]'),
        ("https://a.example b.example:8000", "10.0.0.1 10.1.0.0/16", f"{first}; {second}"),
        ('"a.example","b.example"', '"10.0.0.1", 10.1.0.0/16', f'"{first}","{second}"'),
    ):
        lists = {"ALLOWED_HOSTS": hosts, "TRUSTED_PROXIES": proxies, "ENCRYPTION_KEY": keys}
        told = json.loads(printed(tmp_path, what, **lists))
        assert told[:2] == [["a.example", "b.example"], ["10.0.0.1/32", "10.1.0.0/16"]]
        assert told[2] == [first, second]


def test_a_proxy_that_is_not_named_is_warned_of(tmp_path: Path) -> None:
    """All callers would look like one, and be limited as one."""
    arguments = {**SOUND, "PUBLIC_URL": "https://memory.example.org"}
    assert "mem0dash.W007" in manage(tmp_path, "check", "--deploy", **arguments).stderr
    named = manage(tmp_path, "check", "--deploy", **arguments, TRUSTED_PROXIES="127.0.0.1").stderr
    assert "mem0dash.W007" not in named
    assert "mem0dash.W008" in manage(tmp_path, "check", **SOUND, ALLOWED_HOSTS="*").stderr


def test_a_clients_key_in_the_servers_environment_is_not_made_an_admins(tmp_path: Path) -> None:
    told = printed(tmp_path, "repr(s.MEM0_API_KEY)", MEM0_API_KEY="m0sk_" + "x" * 43)
    assert told == "''"


@pytest.mark.parametrize(
    ("command", "host"),
    [("serve", "0.0.0.0"), ("check", "::"), ("check", "10.1.2.3"), ("check", "memory.example.org")],
)
def test_without_authentication_it_refuses_to_listen_beyond_this_machine(
    tmp_path: Path, command: str, host: str
) -> None:
    done = manage(tmp_path, command, AUTH_DISABLED="1", HOST=host, PORT="0", **SOUND)
    assert done.returncode != 0
    assert "AUTH_DISABLED" in done.stderr and "Traceback" not in done.stderr
    assert "listens on" not in done.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_authentication_it_may_listen_on_this_machine(tmp_path: Path, host: str) -> None:
    done = manage(tmp_path, "check", AUTH_DISABLED="yes", HOST=host, **SOUND)
    assert done.returncode == 0, done.stderr


def test_serve_tells_a_wrong_encryption_key_before_it_listens(tmp_path: Path) -> None:
    first = manage(tmp_path, "bootstrap", "--email", "a@example.org", "--password", "long enough 1")
    assert first.returncode == 0, first.stderr
    done = manage(tmp_path, "serve", PORT="0", ENCRYPTION_KEY=Fernet.generate_key().decode())
    assert done.returncode == 1
    assert done.stderr.strip().startswith("mem0dash cannot start: ENCRYPTION_KEY is not the key")
    assert "Traceback" not in done.stderr and "listens on" not in done.stdout


def test_serve_tells_a_database_that_does_not_answer(tmp_path: Path) -> None:
    url = "postgres://nobody:hidden-word@127.0.0.1:1/nothing"
    done = manage(tmp_path, "serve", PORT="0", DATABASE_URL=url)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("mem0dash cannot start: DATABASE_URL")
    assert "Traceback" not in done.stderr and "hidden-word" not in done.stderr


# --- Paths to Python -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("JOB_KINDS", "memories.retention.GONE", ["memories.retention.GONE"]),
        ("MIDDLEWARE", "core.pages.answers.Renamed", ["core.pages.answers.Renamed"]),
        ("HEALTH_CHECKS", "memories.gone.check", {"index": "memories.gone.check"}),
        ("METRICS_GAUGES", "memories.runtime.gone", {"n": ("A text.", "memories.runtime.gone")}),
        ("REQUEST_LOG", "operations.request_log.gone", "operations.request_log.gone"),
        ("TEMPLATES", "dashboard.gone", [{"OPTIONS": {"context_processors": ["dashboard.gone"]}}]),
        ("LOGGING", "core.logs.Gone", {"formatters": {"json": {"()": "core.logs.Gone"}}}),
        (
            "REST_FRAMEWORK",
            "apikeys.gone.Gone",
            {"DEFAULT_PERMISSION_CLASSES": ["apikeys.gone.Gone"]},
        ),
    ],
)
def test_what_the_settings_name_by_its_path_has_to_be_there(
    settings: Any, name: str, path: str, value: Any
) -> None:
    assert check_paths(None) == []
    setattr(settings, name, value)
    [found] = check_paths(None)
    assert f"{name} names {path}, which cannot be imported" in found.msg
