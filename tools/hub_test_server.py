#!/usr/bin/env python3
"""A Hugging Face Hub on loopback over local folders, for interoperability tests. Standard library only.

    python tools/hub_test_server.py OWNER/NAME=FOLDER [OWNER/NAME=FOLDER]...

Speaks what `pmd-agent models download` and huggingface_hub ask: model info, revisions, file trees, HEAD and GET of resolve URLs (with
ranges), the account. Weights and tokenizers are "LFS" files: their resolve URL redirects to a second port on another host name, which
refuses (and counts) any request that carries a token. Prints one JSON line with the ports, then serves until it is ended. GET /__seen
gives the counters.
"""
import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_ENDINGS = (".safetensors", "tokenizer.json")


class Repo:
    """The files of a folder with the hashes that the Hub gives them; the commit is a hash of all."""

    def __init__(self, folder):
        self.folder, self.files = folder, {}
        for at, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(at, name)
                with open(path, "rb") as f:
                    data = f.read()
                rel = os.path.relpath(path, folder)
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                lfs = hashlib.sha256(data).hexdigest() if rel.endswith(LFS_ENDINGS) else None
                self.files[rel] = dict(path=rel, size=len(data), oid=oid, lfs=lfs)
        listing = json.dumps(sorted(self.files.items())).encode()
        self.commit = hashlib.sha1(listing).hexdigest()

    def tree(self):
        out = []
        for e in self.files.values():
            entry = dict(type="file", path=e["path"], size=e["size"], oid=e["oid"])
            if e["lfs"]:
                entry["lfs"] = dict(oid=e["lfs"], size=e["size"], pointerSize=134)
            out.append(entry)
        return out


def handler(server, storage):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", headers=()):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, code, status=404):
            self.answer(status, {"error": code}, [("X-Error-Code", code)])

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            parts = [unquote(p) for p in urlsplit(self.path).path.split("/")[1:]]
            token = "Authorization" in self.headers
            server.seen["storage" if storage else "hub"] += 1
            if storage:
                if token:
                    server.seen["token_at_storage"] += 1
                    return self.answer(400, b"a signed URL takes no token")
                return self.content(server.repos["/".join(parts[:2])], "/".join(parts[2:]), [])
            if parts == ["__seen"]:
                return self.answer(200, server.seen)
            if parts[:2] == ["api", "whoami-v2"]:
                return self.answer(200, {"type": "user", "name": "tester"}) if token else self.answer(401, {"error": "no token"})
            api = parts[:2] == ["api", "models"]
            if api:
                parts = parts[2:]
            repo = server.repos.get("/".join(parts[:2]))
            if not repo:
                return self.refuse("RepoNotFound")
            what, revision = (parts[2:4] + [None, None])[:2]
            if revision not in (None, "main", repo.commit):
                return self.refuse("RevisionNotFound")
            if api and what in (None, "revision"):
                name = "/".join(parts[:2])
                siblings = [dict(rfilename=p) for p in repo.files]
                return self.answer(200, dict(id=name, modelId=name, sha=repo.commit, private=False, gated=False, disabled=False, tags=[],
                                             downloads=0, likes=0, siblings=siblings))
            if api and what == "tree":
                return self.answer(200, repo.tree())
            if what == "resolve":
                return self.resolve("/".join(parts[:2]), repo, "/".join(parts[4:]))
            return self.refuse("EntryNotFound")

        def resolve(self, name, repo, path):
            e = repo.files.get(path)
            commit = [("X-Repo-Commit", repo.commit)]
            if not e:
                return self.answer(404, b"", commit + [("X-Error-Code", "EntryNotFound")])
            if not e["lfs"]:
                return self.content(repo, path, commit + [("ETag", '"%s"' % e["oid"])])
            self.answer(302, b"", commit + [("X-Linked-Etag", '"%s"' % e["lfs"]), ("X-Linked-Size", str(e["size"])),
                                            ("Location", "http://localhost:%d/%s/%s?sig=1" % (server.storage_port, name, path))])

        def content(self, repo, path, headers):
            with open(os.path.join(repo.folder, path), "rb") as f:
                data = f.read()
            asked = self.headers.get("Range", "")
            if asked.startswith("bytes="):
                first, last = (asked[6:].split("-") + [""])[:2]
                start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
                if start >= len(data):
                    return self.answer(416)
                server.seen["ranges"] += 1
                return self.answer(206, data[start:stop], headers + [("Content-Range", "bytes %d-%d/%d" % (start, stop - 1, len(data)))])
            return self.answer(200, data, headers + [("Accept-Ranges", "bytes")])
    return Handler


class HubServer:
    """repos: {"owner/name": folder}. The endpoint is 127.0.0.1, the storage localhost: another host, as far as a token goes."""

    def __init__(self, repos):
        self.repos = {name: Repo(folder) for name, folder in repos.items()}
        self.seen = dict(hub=0, storage=0, ranges=0, token_at_storage=0)
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(self, storage)) for storage in (False, True)]
        self.port, self.storage_port = (s.server_address[1] for s in self.servers)
        self.endpoint = "http://127.0.0.1:%d" % self.port
        for s in self.servers:
            s.daemon_threads = True
            threading.Thread(target=s.serve_forever, daemon=True).start()

    def close(self):
        for s in self.servers:
            s.shutdown()
            s.server_close()


if __name__ == "__main__":
    if len(sys.argv) < 2 or not all("=" in a for a in sys.argv[1:]):
        sys.exit(__doc__)
    hub = HubServer(dict(a.split("=", 1) for a in sys.argv[1:]))
    print(json.dumps(dict(endpoint=hub.endpoint, port=hub.port, storage_port=hub.storage_port)), flush=True)
    while True:
        time.sleep(3600)
