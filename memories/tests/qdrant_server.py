"""A small server that answers the part of Qdrant's REST interface which mem0dash uses.

Each collection is a shard of the real embedded engine, so that what is found, filtered and scored
is Qdrant's own work; only the HTTP around it is made here. One process:

    python -m memories.tests.qdrant_server --folder DIR [--port N] [--api-key KEY]

prints its port. `POST /_test` makes it misbehave: {"hang": seconds}, {"fail": status}, for the next
`times` requests (for ever without it), {"lose": true} for the data, {} to behave again.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as edge


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


# --- From Qdrant's JSON to the engine ------------------------------------------------------------
def point_id(value: Any) -> Any:
    return uuid.UUID(value) if isinstance(value, str) else value


def condition(one: dict[str, Any]) -> Any:
    if "has_id" in one:
        return edge.HasIdCondition({point_id(id_) for id_ in one["has_id"]})
    if "key" not in one:
        return filter_of(one)
    if one.get("match") is not None:
        match = one["match"]
        made = edge.MatchAny(match["any"]) if "any" in match else edge.MatchValue(match["value"])
        return edge.FieldCondition(one["key"], match=made)
    bounds = {k: float(v) for k, v in one["range"].items() if v is not None}
    return edge.FieldCondition(one["key"], range=edge.RangeFloat(**bounds))


def filter_of(given: dict[str, Any] | None) -> Any:
    if not given:
        return None
    parts = {
        name: [condition(one) for one in given[name]]
        for name in ("must", "should", "must_not")
        if given.get(name) is not None
    }
    return edge.Filter(**parts)


def vector_of(value: Any) -> Any:
    if isinstance(value, dict):
        return edge.SparseVector(value["indices"], value["values"])
    return value


def point_of(given: dict[str, Any]) -> Any:
    vectors = {name: vector_of(value) for name, value in given["vector"].items()}
    return edge.Point(given["id"], vectors, given.get("payload") or {})


def config_of(given: dict[str, Any]) -> Any:
    dense = {
        name: edge.EdgeVectorParams(size=one["size"], distance=edge.Distance.Cosine)
        for name, one in (given.get("vectors") or {}).items()
    }
    sparse = {
        name: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)
        for name in given.get("sparse_vectors") or {}
    }
    return edge.EdgeConfig(vectors=dense or None, sparse_vectors=sparse)


_SCHEMAS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "integer": edge.PayloadSchemaType.Integer,
}


class Store:
    """The collections, and how the server is to misbehave."""

    def __init__(self, folder: Path, api_key: str, *, with_indexes: bool = False) -> None:
        self.folder, self.api_key, self.with_indexes = folder, api_key, with_indexes
        self.lock = threading.RLock()
        self.hang, self.fail, self.times = 0.0, 0, 0
        self.shards: dict[str, Any] = {}
        for path in folder.iterdir():
            if (path / "edge_config.json").exists():
                self.shards[path.name] = edge.EdgeShard.load(str(path))
            else:
                shutil.rmtree(path)  # killed while it was made

    def misbehave(self, told: dict[str, Any]) -> None:
        self.hang, self.fail = told.get("hang", 0.0), told.get("fail", 0)
        self.times = told.get("times", -1) if self.hang or self.fail else 0
        if told.get("lose"):
            for name in list(self.shards):
                self.drop(name)

    def disturbed(self) -> None:
        """Hangs or fails, when told to."""
        with self.lock:
            if not self.times:
                return
            self.times -= 1
            hang, fail = self.hang, self.fail
        time.sleep(hang)
        if fail:
            raise Refused(fail, "told to fail")

    def shard(self, name: str) -> Any:
        found = self.shards.get(name)
        if found is None:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def create(self, name: str, config: dict[str, Any]) -> bool:
        with self.lock:
            if name in self.shards:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            path = self.folder / name
            path.mkdir()
            self.shards[name] = edge.EdgeShard.create(str(path), config_of(config))
        return True

    def drop(self, name: str) -> bool:
        with self.lock:
            shard = self.shards.pop(name, None)
            if shard is not None:
                shard.close()
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return shard is not None

    def collection(self, method: str, name: str, rest: list[str], body: Any) -> Any:
        """One call on one collection: what Qdrant calls `result`."""
        called = " ".join((method, *rest))
        if called == "GET exists":
            return {"exists": name in self.shards}
        if called == "PUT":
            return self.create(name, body)
        if called == "DELETE":
            return self.drop(name)
        route = {
            "PUT index": self.index,
            "PUT points": self.upsert,
            "POST points": self.retrieve,
            "POST points delete": self.delete,
            "POST points query": self.query,
            "POST points query batch": self.query_batch,
            "POST points scroll": self.scroll,
            "POST points count": self.count,
        }.get(called)
        if route is None:
            raise Refused(404, "no such route here")
        return route(self.shard(name), body)

    def delete(self, shard: Any, body: Any) -> Any:
        if "filter" in body:
            where = filter_of(body["filter"])
            shard.update(edge.UpdateOperation.delete_points_by_filter(where))
        else:
            shard.update(edge.UpdateOperation.delete_points(body["points"]))
        return {"operation_id": 0, "status": "completed"}

    def count(self, shard: Any, body: Any) -> Any:
        request = edge.CountRequest(
            exact=body.get("exact", True), filter=filter_of(body.get("filter"))
        )
        return {"count": shard.count(request)}

    def index(self, shard: Any, body: Any) -> Any:
        schema = body["field_schema"]
        kind = _SCHEMAS[schema["type"] if isinstance(schema, dict) else schema]
        # An index makes a filter faster, not different; to make it takes most of a test's time.
        if self.with_indexes:
            shard.update(edge.UpdateOperation.create_field_index(body["field_name"], kind))
        return {"operation_id": 0, "status": "completed"}

    def upsert(self, shard: Any, body: Any) -> Any:
        points = [point_of(one) for one in body["points"]]
        where = filter_of(body.get("update_filter"))
        shard.update(edge.UpdateOperation.upsert_points(points, where))
        return {"operation_id": 0, "status": "completed"}

    def query(self, shard: Any, body: Any) -> Any:
        query = body["query"]
        if isinstance(query, dict) and "nearest" in query:
            query = query["nearest"]
        nearest = edge.Query.Nearest(vector_of(query), body["using"])
        request = edge.QueryRequest(
            query=nearest, limit=body["limit"], filter=filter_of(body.get("filter"))
        )
        hits = shard.query(request)
        return {"points": [{"id": str(h.id), "version": 0, "score": h.score} for h in hits]}

    def query_batch(self, shard: Any, body: Any) -> Any:
        return [self.query(shard, one) for one in body["searches"]]

    def scroll(self, shard: Any, body: Any) -> Any:
        offset = body.get("offset")
        request = edge.ScrollRequest(
            limit=body["limit"],
            offset=point_id(offset) if offset else None,
            with_payload=True,
            with_vector=bool(body.get("with_vector")),
        )
        records, following = shard.scroll(request)
        at = str(following) if following is not None else None
        return {"points": [_record(r, body) for r in records], "next_page_offset": at}

    def retrieve(self, shard: Any, body: Any) -> Any:
        return [_record(r, body) for r in shard.retrieve(body["ids"], True, False)]


def _record(record: Any, body: Any) -> dict[str, Any]:
    wanted, payload = body.get("with_payload"), record.payload or {}
    if isinstance(wanted, list):
        payload = {k: v for k, v in payload.items() if k in wanted}
    found = {"id": str(record.id), "payload": payload}
    if body.get("with_vector"):
        found["vector"] = {name: _plain(one) for name, one in (record.vector or {}).items()}
    return found


def _plain(vector: Any) -> Any:
    if hasattr(vector, "indices"):
        return {"indices": list(vector.indices), "values": list(vector.values)}
    return list(vector)


class Handler(BaseHTTPRequestHandler):
    """HTTP around the store."""

    store: Store
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        started = time.perf_counter()
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        try:
            result, status, said = self._result(body), 200, "ok"
        except Refused as error:
            result, status, said = None, error.status, {"error": error.message}
        except Exception as error:  # noqa: BLE001  (the engine's own refusals, such as of a wrong dimension)
            result, status, said = None, 400, {"error": f"Wrong input: {error}"}
        took = time.perf_counter() - started
        data = json.dumps({"result": result, "status": said, "time": took}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def _result(self, body: Any) -> Any:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts == ["_test"]:
            return self.store.misbehave(body or {})
        if self.store.api_key and self.headers.get("api-key") != self.store.api_key:
            raise Refused(401, "Must provide an API key or an Authorization bearer token")
        self.store.disturbed()
        if parts == ["collections"]:
            return {"collections": [{"name": name} for name in list(self.store.shards)]}
        return self.store.collection(self.command, parts[1], parts[2:], body)

    def log_message(self, *args: Any) -> None:
        pass


class QdrantServer:
    """The server as a process of its own, which can be killed and started again on its port."""

    def __init__(self, folder: Path, *, api_key: str = "", port: int = 0) -> None:
        self.folder, self.api_key, self.port = folder, api_key, port
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "QdrantServer":
        command = [sys.executable, "-m", "memories.tests.qdrant_server"]
        command += ["--folder", str(self.folder), "--port", str(self.port)]
        root = Path(__file__).resolve().parent.parent.parent
        environment = {**os.environ, "QDRANT_TEST_API_KEY": self.api_key}
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the Qdrant test server did not start")
        self.port = int(line)
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, **how: Any) -> None:
        """Makes it misbehave; without arguments, behave."""
        data = json.dumps(how or {"well": True}).encode()
        request = urllib.request.Request(f"{self.url}/_test", data, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def kill9(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            for pipe in (self.process.stdout, self.process.stdin):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self.process = None


def _end_with_parent() -> None:
    """The parent holds the other end of our input: when it is gone, so are we."""
    sys.stdin.buffer.read()
    os._exit(0)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a request is no news."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-indexes", action="store_true", help="make payload indexes, too")
    parser.add_argument("--api-key", default=os.environ.get("QDRANT_TEST_API_KEY", ""))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    Handler.store = Store(options.folder, options.api_key, with_indexes=options.with_indexes)
    http = _Http(("127.0.0.1", options.port), Handler)
    print(http.server_address[1], flush=True)  # noqa: T201  (who started it reads it)
    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_parent, daemon=True).start()
    http.serve_forever()


if __name__ == "__main__":
    main()
