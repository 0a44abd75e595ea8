"""A small registry with faults: what the chaos runs read from and write to.

It keeps manifests and blobs in memory, checks what is put, and lets a share of its answers go wrong (`rate`). It shares no code with larder.
"""

import hashlib
import json
import random
import re
import socket
import struct
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ["500", "502", "503", "429", "reset", "cut"]


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """The content, the faults, and the server's address."""

    def __init__(self, seed=0):
        self.lock = threading.RLock()
        self.blobs = {}
        self.manifests = {}
        self.tags = {}
        self.uploads = {}
        self.rate = 0.0
        self.random = random.Random(seed)
        self.requests = 0
        self.faults = 0
        self.problems = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        server.registry = self
        self.address = "127.0.0.1:%d" % server.server_address[1]
        self.server = server
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def put_blob(self, repository, data):
        digest = sha256(data)
        self.blobs.setdefault(repository, {})[digest] = data
        return digest

    def put_manifest(self, repository, tag, media_type, document):
        data = json.dumps(document).encode()
        digest = sha256(data)
        self.manifests.setdefault(repository, {})[digest] = (media_type, data)
        if tag:
            self.tags.setdefault(repository, {})[tag] = digest
        return digest, len(data)

    def fault(self):
        with self.lock:
            self.requests += 1
            if self.random.random() >= self.rate:
                return None
            self.faults += 1
            return self.random.choice(FAULTS)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError, ValueError, OSError):
            pass

    def handle_one_request(self):
        self.cut = False
        super().handle_one_request()

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and body:
            if self.cut:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.reset()
                return
            self.wfile.write(body)

    def error(self, status, code):
        self.answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), {"Content-Type": "application/json"})

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                chunk = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    return data
                data += chunk
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionError("the client has gone away")
        return data

    def serve(self):
        registry = self.server.registry
        body = self.body()
        fault = registry.fault()
        if fault == "reset":
            return self.reset()
        if fault == "cut":
            self.cut = True
        elif fault:
            return self.error(int(fault), "TOOMANYREQUESTS" if fault == "429" else "UNAVAILABLE")
        path, _, query = self.path.partition("?")
        with registry.lock:
            if path == "/v2/":
                return self.answer(200, b"{}")
            match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.+?)/?", path)
            if not match:
                return self.error(404, "NAME_UNKNOWN")
            repository, kind, rest = match.groups()
            if kind == "manifests":
                return self.manifest(registry, repository, rest, body)
            if kind == "tags":
                return self.list(registry, repository)
            if kind == "blobs" and (rest == "uploads" or rest.startswith("uploads/")):
                return self.upload(registry, repository, rest[8:], query, body)
            if kind == "blobs":
                return self.blob(registry, repository, rest)
        return self.error(404, "UNSUPPORTED")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = serve

    def list(self, registry, repository):
        if repository not in registry.tags:
            return self.error(404, "NAME_UNKNOWN")
        self.answer(200, json.dumps({"name": repository, "tags": sorted(registry.tags[repository])}).encode(), {"Content-Type": "application/json"})

    def manifest(self, registry, repository, reference, body):
        if self.command == "PUT":
            return self.put_manifest(registry, repository, reference, body)
        digest = reference if ":" in reference else registry.tags.get(repository, {}).get(reference)
        found = registry.manifests.get(repository, {}).get(digest)
        if not found:
            return self.error(404, "MANIFEST_UNKNOWN")
        media_type, data = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest, "Content-Length": str(len(data))}
        self.answer(200, data, headers)

    def put_manifest(self, registry, repository, reference, body):
        digest = sha256(body)
        if ":" in reference and reference != digest:
            registry.problems.append("%s: %s was put under %s" % (repository, digest, reference))
            return self.error(400, "DIGEST_INVALID")
        document = json.loads(body)
        blobs = [document[key]["digest"] for key in ("config",) if key in document] + [layer["digest"] for layer in document.get("layers", [])]
        children = [child["digest"] for child in document.get("manifests", [])]
        lacking = [blob for blob in blobs if blob not in registry.blobs.get(repository, {})]
        lacking += [child for child in children if child not in registry.manifests.get(repository, {})]
        if lacking:
            return self.error(400, "MANIFEST_BLOB_UNKNOWN")
        registry.manifests.setdefault(repository, {})[digest] = (self.headers.get("Content-Type"), body)
        if ":" not in reference:
            registry.tags.setdefault(repository, {})[reference] = digest
        self.answer(201, b"", {"Location": "/v2/%s/manifests/%s" % (repository, digest), "Docker-Content-Digest": digest})

    def blob(self, registry, repository, digest):
        data = registry.blobs.get(repository, {}).get(digest)
        if data is None:
            return self.error(404, "BLOB_UNKNOWN")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.command == "GET":
            start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
            if start >= len(data):
                return self.error(416, "RANGE_INVALID")
            end = min(end, len(data) - 1)
            headers["Content-Range"] = "bytes %d-%d/%d" % (start, end, len(data))
            return self.answer(206, data[start : end + 1], headers)
        headers["Content-Length"] = str(len(data))
        self.answer(200, data, headers)

    def upload(self, registry, repository, session, query, body):
        parameters = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
        digest = parameters.get("digest", "").replace("%3A", ":")
        if self.command == "POST":
            mounted, source = parameters.get("mount", "").replace("%3A", ":"), parameters.get("from", "").replace("%2F", "/")
            data = registry.blobs.get(source, {}).get(mounted)
            if data is not None:
                registry.blobs.setdefault(repository, {})[mounted] = data
                return self.answer(201, b"", {"Location": "/v2/%s/blobs/%s" % (repository, mounted), "Docker-Content-Digest": mounted})
            session = uuid.uuid4().hex
            registry.uploads[session] = b""
            return self.answer(202, b"", {"Location": "/v2/%s/blobs/uploads/%s" % (repository, session), "Range": "0-0"})
        if session not in registry.uploads:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        if self.command == "DELETE":
            del registry.uploads[session]
            return self.answer(204)
        data = registry.uploads[session] + body
        location = "/v2/%s/blobs/uploads/%s" % (repository, session)
        if self.command == "GET":
            return self.answer(204, b"", {"Location": location, "Range": "0-%d" % max(0, len(data) - 1)})
        if self.command == "PATCH":
            registry.uploads[session] = data
            return self.answer(202, b"", {"Location": location, "Range": "0-%d" % max(0, len(data) - 1)})
        if sha256(data) != digest:
            del registry.uploads[session]
            return self.error(400, "DIGEST_INVALID")
        del registry.uploads[session]
        registry.blobs.setdefault(repository, {})[digest] = data
        self.answer(201, b"", {"Location": "/v2/%s/blobs/%s" % (repository, digest), "Docker-Content-Digest": digest})
